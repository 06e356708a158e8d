#include "execute.h"

#include "bus.h"
#include "csr.h"

uint64_t riscv_execute_raw(ftvm_riscv *machine, uint64_t pc)
{
    uint32_t raw = 0;
    uint64_t bad = 0;
    machine->core.hart.pc = pc;
    riscv_bus_fetch(machine, &raw, &bad);
    return (raw & 3) == 3 ? raw : raw & 0xffff;
}

bool riscv_execute_csr(ftvm_riscv *machine, const riscv_operation *operation)
{
    uint64_t *x = machine->core.hart.x;
    unsigned number = (unsigned)operation->imm;
    bool is_immediate = operation->op >= RISCV_OP_CSRRWI;
    bool is_swap = operation->op == RISCV_OP_CSRRW || operation->op == RISCV_OP_CSRRWI;
    bool is_set = operation->op == RISCV_OP_CSRRS || operation->op == RISCV_OP_CSRRSI;
    bool is_write = is_swap || operation->rs1 != 0; /* setting or clearing by x0 only reads */
    uint64_t operand = is_immediate ? operation->rs1 : x[operation->rs1];
    uint64_t old = 0;
    if (!riscv_csr_may(machine, number, is_write) || !riscv_csr_read(machine, number, &old))
        return false;
    if (is_write) {
        riscv_csr_write(machine, number, is_swap ? operand : is_set ? old | operand : old & ~operand);
        machine->must_leave = true;
    }
    x[operation->rd] = old;
    return true;
}

bool riscv_execute_wfi(ftvm_riscv *machine)
{
    riscv_hart *hart = &machine->core.hart;
    if (hart->privilege == RISCV_USER && (hart->mstatus & RISCV_MSTATUS_TW) != 0)
        return false;
    hart->is_waiting = true;
    device_uart_flush(&machine->board, &machine->core.uart);
    machine->must_leave = true;
    return true;
}

bool riscv_execute_mret(ftvm_riscv *machine)
{
    if (machine->core.hart.privilege != RISCV_MACHINE)
        return false;
    riscv_hart_return(&machine->core.hart);
    return true;
}
