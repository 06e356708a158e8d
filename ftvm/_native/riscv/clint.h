/* clint: software interrupt and timer of hart 0, at 0x02000000: msip +0, mtimecmp +0x4000, mtime +0xbff8.
 *
 * mtime is derived from the position, so it cannot be written; writes to it are ignored. */
#ifndef FTVM_RISCV_CLINT_H
#define FTVM_RISCV_CLINT_H

#include "../devices/device.h"

typedef struct {
    uint32_t msip;
    uint64_t mtimecmp;
} riscv_clint;

extern const device_ops riscv_clint_ops;

/* Whether the timer interrupt is pending when `ticks` (retired + idled) have passed. */
bool riscv_clint_is_due(const riscv_clint *clint, uint64_t ticks);

/* How many ticks from now until it is: 0 if it is, UINT64_MAX if never. */
uint64_t riscv_clint_ticks_left(const riscv_clint *clint, uint64_t ticks);

#endif
