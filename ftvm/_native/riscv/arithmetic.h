/* arithmetic: the corners of multiplication and division that C leaves undefined. */
#ifndef FTVM_RISCV_ARITHMETIC_H
#define FTVM_RISCV_ARITHMETIC_H

#include <stdint.h>

__extension__ typedef __int128 riscv_i128;
__extension__ typedef unsigned __int128 riscv_u128;

static inline uint64_t riscv_mulhu(uint64_t a, uint64_t b)
{
    return (uint64_t)((riscv_u128)a * b >> 64);
}

static inline uint64_t riscv_mulh(uint64_t a, uint64_t b)
{
    return (uint64_t)((riscv_i128)(int64_t)a * (int64_t)b >> 64);
}

static inline uint64_t riscv_mulhsu(uint64_t a, uint64_t b)
{
    return riscv_mulhu(a, b) - ((int64_t)a < 0 ? b : 0);
}

/* Division by zero gives all ones, and its rest the dividend; overflow gives the dividend, and rest 0. */
static inline uint64_t riscv_div(uint64_t a, uint64_t b)
{
    if (b == 0)
        return ~UINT64_C(0);
    return b == ~UINT64_C(0) ? 0 - a : (uint64_t)((int64_t)a / (int64_t)b);
}

static inline uint64_t riscv_rem(uint64_t a, uint64_t b)
{
    if (b == 0)
        return a;
    return b == ~UINT64_C(0) ? 0 : (uint64_t)((int64_t)a % (int64_t)b);
}

#endif
