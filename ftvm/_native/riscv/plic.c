#include "plic.h"

enum { PRIORITY = 0x0, PENDING = 0x1000, ENABLE = 0x2000, THRESHOLD = 0x200000, CLAIM = 0x200004 };

/* A source is pending when its line is high and it is not between claim and completion; it stays so until claimed. */
static void settle(riscv_plic *plic)
{
    plic->pending |= plic->lines & ~plic->claimed;
}

void riscv_plic_set_line(riscv_plic *plic, unsigned source, bool is_high)
{
    uint32_t bit = UINT32_C(1) << source;
    plic->lines = is_high ? plic->lines | bit : plic->lines & ~bit;
    if (!is_high)
        plic->pending &= ~bit; /* nothing left to serve: spares the guest a spurious interrupt */
    settle(plic);
}

/* The source to serve next: highest priority, then lowest number; 0 if none is pending and enabled. */
static unsigned best(const riscv_plic *plic)
{
    unsigned found = 0;
    uint32_t ready = plic->pending & plic->enabled;
    for (unsigned source = 1; source < RISCV_PLIC_SOURCES && ready >> source != 0; source++) {
        if ((ready >> source & 1) != 0 && plic->priority[source] > plic->priority[found])
            found = source;
    }
    return found;
}

bool riscv_plic_is_pending(const riscv_plic *plic)
{
    unsigned source = best(plic);
    return source != 0 && plic->priority[source] > plic->threshold;
}

static uint32_t claim(riscv_plic *plic)
{
    unsigned source = best(plic);
    if (source != 0) {
        plic->pending &= ~(UINT32_C(1) << source);
        plic->claimed |= UINT32_C(1) << source;
    }
    return source;
}

static void complete(riscv_plic *plic, uint64_t source)
{
    if (source >= RISCV_PLIC_SOURCES || (plic->enabled >> source & 1) == 0)
        return; /* the specification: ignored */
    plic->claimed &= ~(UINT32_C(1) << source);
    settle(plic);
}

static bool plic_read(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    (void)board;
    riscv_plic *plic = device;
    if (size != 4)
        return false;
    *value = 0;
    if (offset < PRIORITY + 4 * RISCV_PLIC_SOURCES)
        *value = plic->priority[offset / 4];
    else if (offset == PENDING)
        *value = plic->pending;
    else if (offset == ENABLE)
        *value = plic->enabled;
    else if (offset == THRESHOLD)
        *value = plic->threshold;
    else if (offset == CLAIM)
        *value = claim(plic);
    return true;
}

static bool plic_write(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)board;
    riscv_plic *plic = device;
    if (size != 4)
        return false;
    if (offset >= 4 && offset < PRIORITY + 4 * RISCV_PLIC_SOURCES)
        plic->priority[offset / 4] = value & 7;
    else if (offset == ENABLE)
        plic->enabled = (uint32_t)value & ~UINT32_C(1);
    else if (offset == THRESHOLD)
        plic->threshold = value & 7;
    else if (offset == CLAIM)
        complete(plic, value);
    return true;
}

static void plic_save(const void *device, wire_writer *writer)
{
    const riscv_plic *plic = device;
    for (unsigned source = 0; source < RISCV_PLIC_SOURCES; source++)
        wire_write_u8(writer, plic->priority[source]);
    wire_write_u8(writer, plic->threshold);
    wire_write_u32(writer, plic->lines);
    wire_write_u32(writer, plic->pending);
    wire_write_u32(writer, plic->claimed);
    wire_write_u32(writer, plic->enabled);
}

static const char *plic_load(void *device, wire_reader *reader)
{
    riscv_plic *plic = device;
    uint8_t highest = 0;
    for (unsigned source = 0; source < RISCV_PLIC_SOURCES; source++) {
        plic->priority[source] = wire_read_u8(reader);
        highest |= plic->priority[source];
    }
    plic->threshold = wire_read_u8(reader);
    plic->lines = wire_read_u32(reader);
    plic->pending = wire_read_u32(reader);
    plic->claimed = wire_read_u32(reader);
    plic->enabled = wire_read_u32(reader);
    if (((highest | plic->threshold) & ~7) != 0 || plic->priority[0] != 0)
        return "plic: a priority or the threshold is above 7";
    if (((plic->lines | plic->pending | plic->claimed | plic->enabled) & 1) != 0)
        return "plic: source 0 does not exist";
    return NULL;
}

const device_ops riscv_plic_ops = {plic_read, plic_write, NULL, plic_save, plic_load};
