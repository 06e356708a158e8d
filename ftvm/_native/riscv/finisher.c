#include "finisher.h"

#include "machine.h"

enum { FAIL = 0x3333, PASS = 0x5555, RESET = 0x7777 };

void riscv_finish(ftvm_riscv *machine, uint8_t ended_by, uint64_t code)
{
    device_uart_flush(&machine->board, &machine->core.uart);
    machine->core.exit_code = code;
    machine->core.ended_by = ended_by;
    machine->must_leave = true;
}

static bool finisher_read(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    (void)board, (void)device, (void)offset, (void)size;
    *value = 0;
    return true;
}

/* A reset ends the machine as well: rebooting it is the business of who started it. */
static bool finisher_write(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)device;
    if (offset != 0 || size < 2)
        return true;
    uint64_t command = value & 0xffff;
    if (command == PASS || command == RESET)
        riscv_finish(riscv_of(board), FTVM_RISCV_BY_FINISHER, 0);
    else if (command == FAIL)
        riscv_finish(riscv_of(board), FTVM_RISCV_BY_FINISHER, value >> 16 & 0xffff);
    return true;
}

const device_ops riscv_finisher_ops = {finisher_read, finisher_write, NULL, NULL, NULL};
