#include "clint.h"

#include "machine.h"

enum { MSIP = 0x0, MTIMECMP = 0x4000, MTIME = 0xbff8 };

bool riscv_clint_is_due(const riscv_clint *clint, uint64_t ticks)
{
    return ticks / FTVM_RISCV_TICKS_PER_MTIME >= clint->mtimecmp;
}

uint64_t riscv_clint_ticks_left(const riscv_clint *clint, uint64_t ticks)
{
    if (riscv_clint_is_due(clint, ticks))
        return 0;
    if (clint->mtimecmp > UINT64_MAX / FTVM_RISCV_TICKS_PER_MTIME)
        return UINT64_MAX;
    return clint->mtimecmp * FTVM_RISCV_TICKS_PER_MTIME - ticks;
}

static uint64_t extract(uint64_t whole, unsigned byte, unsigned size)
{
    uint64_t part = whole >> (8 * byte);
    return size == 8 ? part : part & ((UINT64_C(1) << (8 * size)) - 1);
}

static uint64_t replace(uint64_t whole, unsigned byte, unsigned size, uint64_t value)
{
    uint64_t mask = (size == 8 ? ~UINT64_C(0) : (UINT64_C(1) << (8 * size)) - 1) << (8 * byte);
    return (whole & ~mask) | (value << (8 * byte) & mask);
}

static bool clint_read(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    const riscv_clint *clint = device;
    const riscv_hart *hart = &riscv_of(board)->core.hart;
    unsigned byte = (unsigned)(offset & 7);
    switch (offset & ~UINT64_C(7)) {
    case MSIP: *value = extract(clint->msip, byte, size); break;
    case MTIMECMP: *value = extract(clint->mtimecmp, byte, size); break;
    case MTIME: *value = extract((hart->retired + hart->idled) / FTVM_RISCV_TICKS_PER_MTIME, byte, size); break;
    default: *value = 0; break;
    }
    return true;
}

static bool clint_write(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)board;
    riscv_clint *clint = device;
    unsigned byte = (unsigned)(offset & 7);
    switch (offset & ~UINT64_C(7)) {
    case MSIP: clint->msip = (uint32_t)replace(clint->msip, byte, size, value) & 1; break;
    case MTIMECMP: clint->mtimecmp = replace(clint->mtimecmp, byte, size, value); break;
    default: break;
    }
    return true;
}

static void clint_save(const void *device, wire_writer *writer)
{
    const riscv_clint *clint = device;
    wire_write_u32(writer, clint->msip);
    wire_write_u64(writer, clint->mtimecmp);
}

static const char *clint_load(void *device, wire_reader *reader)
{
    riscv_clint *clint = device;
    clint->msip = wire_read_u32(reader);
    clint->mtimecmp = wire_read_u64(reader);
    return clint->msip > 1 ? "clint: msip is neither 0 nor 1" : NULL;
}

const device_ops riscv_clint_ops = {clint_read, clint_write, NULL, clint_save, clint_load};
