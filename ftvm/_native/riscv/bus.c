#include "bus.h"

#include <string.h>

#include "finisher.h"

typedef struct {
    uint64_t base;
    uint64_t bytes;
    unsigned interrupt; /* plic source; 0 for none */
    uint32_t option;    /* the FTVM_RISCV_ device bit it depends on; 0 for always there */
    size_t offset;      /* of its state in riscv_core */
    const device_ops *ops;
} slot;

#define CORE(member) offsetof(riscv_core, member)

/* The machine's map, as on QEMU's `virt`. Its order is also the order of the saved state: add at the end. */
static const slot slots[] = {
    {0x02000000, 0x10000, 0, 0, CORE(clint), &riscv_clint_ops},
    {0x0c000000, 0x600000, 0, 0, CORE(plic), &riscv_plic_ops},
    {0x10000000, 0x100, 10, 0, CORE(uart), &device_uart_ops},
    {0x00100000, 0x1000, 0, 0, 0, &riscv_finisher_ops},
    {0x10001000, 0x1000, 1, FTVM_RISCV_NET, CORE(net), &device_virtio_ops},
    {0x10002000, 0x1000, 2, FTVM_RISCV_BLOCK, CORE(block), &device_virtio_ops},
    {0x10003000, 0x1000, 3, FTVM_RISCV_ENTROPY, CORE(entropy), &device_virtio_ops},
    {0x10001000, 0x8000, 0, 0, 0, &device_virtio_empty_ops}, /* where none of the devices above is plugged in */
};
enum { SLOT_COUNT = sizeof slots / sizeof slots[0] };

static const slot *find_slot(const ftvm_riscv *machine, uint64_t address)
{
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        const slot *found = &slots[i];
        bool is_there = found->option == 0 || (machine->config.devices & found->option) != 0;
        if (is_there && address - found->base < found->bytes)
            return found;
    }
    return NULL;
}

static void *state_of(riscv_core *core, const slot *found)
{
    return (char *)core + found->offset;
}

/* The slow half of every write to RAM: marks the page, keeps decoded code and the reservation honest. */
static void note_write(ftvm_riscv *machine, uint64_t offset, size_t bytes)
{
    for (uint64_t page = offset >> PAGE_SHIFT; page <= (offset + bytes - 1) >> PAGE_SHIFT; page++)
        machine->config.flags[page] =
            riscv_code_is_watched(&machine->code, page) ? RISCV_FLAG_WATCHED : RISCV_FLAG_DIRTY;
    riscv_code_forget(&machine->code, offset, bytes);
    if (machine->hooks.marks != NULL)
        riscv_hooks_mark(&machine->hooks, offset, bytes);
    if (machine->hooks.watch_count != 0 &&
        riscv_hooks_wrote(&machine->hooks, machine->core.hart.retired, offset, bytes))
        machine->must_leave = true;
}

static void check_tohost(ftvm_riscv *machine, uint64_t address, uint64_t value)
{
    if (machine->core.tohost != 0 && address == machine->core.tohost && (value & 1) != 0)
        riscv_finish(machine, FTVM_RISCV_BY_TOHOST, value >> 1);
}

static uint64_t extend_ram(const ftvm_riscv *machine, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    memcpy(&value, machine->config.ram + offset, size);
    return value;
}

uint64_t riscv_bus_load(ftvm_riscv *machine, uint64_t address, unsigned size, uint64_t *value)
{
    riscv_hart *hart = &machine->core.hart;
    if (!riscv_hart_may(hart, riscv_hart_data_privilege(hart), RISCV_READ, address, size))
        return RISCV_LOAD_ACCESS;
    if (device_is_ram(&machine->board, address, size)) {
        *value = extend_ram(machine, address - FTVM_RISCV_RAM_BASE, size);
        return 0;
    }
    const slot *found = find_slot(machine, address);
    if (found == NULL || (address & (size - 1)) != 0)
        return RISCV_LOAD_ACCESS;
    machine->must_leave = true;
    bool is_answered =
        found->ops->read(&machine->board, state_of(&machine->core, found), address - found->base, size, value);
    return is_answered ? 0 : RISCV_LOAD_ACCESS;
}

uint64_t riscv_bus_store(ftvm_riscv *machine, uint64_t address, unsigned size, uint64_t value)
{
    riscv_hart *hart = &machine->core.hart;
    if (!riscv_hart_may(hart, riscv_hart_data_privilege(hart), RISCV_WRITE, address, size))
        return RISCV_STORE_ACCESS;
    if (device_is_ram(&machine->board, address, size)) {
        memcpy(machine->config.ram + (address - FTVM_RISCV_RAM_BASE), &value, size);
        note_write(machine, address - FTVM_RISCV_RAM_BASE, size);
        check_tohost(machine, address, value);
        return 0;
    }
    const slot *found = find_slot(machine, address);
    if (found == NULL || (address & (size - 1)) != 0)
        return RISCV_STORE_ACCESS;
    machine->must_leave = true;
    bool is_answered =
        found->ops->write(&machine->board, state_of(&machine->core, found), address - found->base, size, value);
    return is_answered ? 0 : RISCV_STORE_ACCESS;
}

static uint64_t fetch_half(ftvm_riscv *machine, uint64_t address, uint32_t *half)
{
    const riscv_hart *hart = &machine->core.hart;
    if (!device_is_ram(&machine->board, address, 2) ||
        !riscv_hart_may(hart, hart->privilege, RISCV_EXECUTE, address, 2))
        return RISCV_FETCH_ACCESS;
    *half = (uint32_t)extend_ram(machine, address - FTVM_RISCV_RAM_BASE, 2);
    return 0;
}

uint64_t riscv_bus_fetch(ftvm_riscv *machine, uint32_t *raw, uint64_t *bad)
{
    uint32_t high = 0;
    *bad = machine->core.hart.pc;
    uint64_t cause = fetch_half(machine, *bad, raw);
    if (cause != 0 || (*raw & 3) != 3)
        return cause;
    *bad += 2;
    cause = fetch_half(machine, *bad, &high);
    *raw |= high << 16;
    return cause;
}

void riscv_bus_wrote(device_board *board, uint64_t offset, size_t bytes)
{
    ftvm_riscv *machine = riscv_of(board);
    riscv_hart *hart = &machine->core.hart;
    uint64_t address = FTVM_RISCV_RAM_BASE + offset;
    note_write(machine, offset, bytes);
    if (hart->has_reservation && hart->reservation + 8 > address && hart->reservation < address + bytes)
        hart->has_reservation = false;
}

void riscv_bus_settle_lines(ftvm_riscv *machine)
{
    riscv_core *core = &machine->core;
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        if (slots[i].interrupt != 0)
            riscv_plic_set_line(&core->plic, slots[i].interrupt, slots[i].ops->line(state_of(core, &slots[i])));
    }
}

void riscv_bus_save(const riscv_core *core, wire_writer *writer)
{
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        if (slots[i].ops->save != NULL)
            slots[i].ops->save((const char *)core + slots[i].offset, writer);
    }
}

const char *riscv_bus_load_devices(riscv_core *core, wire_reader *reader)
{
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        const char *wrong = slots[i].ops->load != NULL ? slots[i].ops->load(state_of(core, &slots[i]), reader) : NULL;
        if (wrong != NULL)
            return wrong;
    }
    return NULL;
}
