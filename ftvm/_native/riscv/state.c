#include "state.h"

#include "bus.h"
#include "csr.h"

#define MAGIC UINT64_C(0x5652435349525446) /* "FTRISCRV" */
#define VERSION 1

static void save_hart(const riscv_hart *hart, wire_writer *writer)
{
    for (unsigned number = 1; number < 32; number++)
        wire_write_u64(writer, hart->x[number]);
    wire_write_u64(writer, hart->pc);
    wire_write_u64(writer, hart->retired);
    wire_write_u64(writer, hart->idled);
    wire_write_u8(writer, hart->privilege);
    wire_write_u8(writer, hart->is_waiting);
    wire_write_u8(writer, hart->has_reservation);
    const uint64_t registers[] = {hart->reservation, hart->mstatus, hart->mtvec,      hart->mie,
                                  hart->mscratch,    hart->mepc,    hart->mcause,     hart->mtval,
                                  hart->mcounteren,  hart->mcountinhibit, hart->mcycle, hart->minstret,
                                  hart->pmpcfg,      hart->pmpaddr};
    for (unsigned i = 0; i < sizeof registers / sizeof registers[0]; i++)
        wire_write_u64(writer, registers[i]);
}

static const char *load_hart(riscv_hart *hart, wire_reader *reader)
{
    bool is_bad = false;
    for (unsigned number = 1; number < 32; number++)
        hart->x[number] = wire_read_u64(reader);
    hart->pc = wire_read_u64(reader);
    hart->retired = wire_read_u64(reader);
    hart->idled = wire_read_u64(reader);
    hart->privilege = wire_read_u8(reader);
    hart->is_waiting = wire_read_flag(reader, &is_bad);
    hart->has_reservation = wire_read_flag(reader, &is_bad);
    uint64_t *const registers[] = {&hart->reservation, &hart->mstatus, &hart->mtvec,      &hart->mie,
                                   &hart->mscratch,    &hart->mepc,    &hart->mcause,     &hart->mtval,
                                   &hart->mcounteren,  &hart->mcountinhibit, &hart->mcycle, &hart->minstret,
                                   &hart->pmpcfg,      &hart->pmpaddr};
    for (unsigned i = 0; i < sizeof registers / sizeof registers[0]; i++)
        *registers[i] = wire_read_u64(reader);
    if (hart->privilege != RISCV_USER && hart->privilege != RISCV_MACHINE)
        return "hart: no such privilege";
    if (is_bad || (hart->pc & 1) != 0)
        return "hart: a register has an impossible value";
    return riscv_csr_are_legal(hart) ? NULL : "hart: a control register has bits that do not exist";
}

size_t riscv_state_save(const ftvm_riscv *machine, uint8_t *state, size_t capacity)
{
    const riscv_core *core = &machine->core;
    wire_writer writer = {state, capacity, 0};
    wire_write_u64(&writer, MAGIC);
    wire_write_u32(&writer, VERSION);
    wire_write_u32(&writer, machine->config.devices);
    wire_write_u64(&writer, machine->config.ram_bytes);
    wire_write_u64(&writer, (machine->config.devices & FTVM_RISCV_BLOCK) != 0 ? machine->config.disk_bytes : 0);
    save_hart(&core->hart, &writer);
    riscv_bus_save(core, &writer);
    wire_write_u64(&writer, core->tohost);
    wire_write_u64(&writer, core->exit_code);
    wire_write_u8(&writer, core->ended_by);
    return writer.length;
}

static const char *load_header(const ftvm_riscv *machine, wire_reader *reader)
{
    uint64_t disk_bytes = (machine->config.devices & FTVM_RISCV_BLOCK) != 0 ? machine->config.disk_bytes : 0;
    if (wire_read_u64(reader) != MAGIC)
        return "these bytes are not the state of a built-in machine";
    if (wire_read_u32(reader) != VERSION)
        return "the state is of another version";
    if (wire_read_u32(reader) != machine->config.devices)
        return "the state is of a machine with other devices";
    if (wire_read_u64(reader) != machine->config.ram_bytes || wire_read_u64(reader) != disk_bytes)
        return "the state is of a machine with another size of memory or disk";
    return NULL;
}

const char *riscv_state_load(const ftvm_riscv *machine, riscv_core *core, const uint8_t *state, size_t bytes)
{
    wire_reader reader = {state, bytes, 0};
    const char *wrong = load_header(machine, &reader);
    if (wrong == NULL)
        wrong = load_hart(&core->hart, &reader);
    if (wrong == NULL)
        wrong = riscv_bus_load_devices(core, &reader);
    core->tohost = wire_read_u64(&reader);
    core->exit_code = wire_read_u64(&reader);
    core->ended_by = wire_read_u8(&reader);
    if (wrong == NULL && reader.length != bytes)
        wrong = reader.length > bytes ? "the state is cut short" : "the state is too long";
    if (wrong == NULL && core->ended_by > FTVM_RISCV_BY_TOHOST)
        wrong = "the state has an impossible end";
    return wrong;
}
