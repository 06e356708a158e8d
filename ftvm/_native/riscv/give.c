#include "give.h"

bool riscv_give(ftvm_riscv *machine, uint32_t channel, const uint8_t *payload, size_t bytes)
{
    switch (channel) {
    case FTVM_RISCV_CHANNEL_CONSOLE:
        return bytes <= (size_t)(DEVICE_UART_FIFO - machine->core.uart.received_count) &&
               ftvm_riscv_receive_console(machine, payload, bytes) == bytes;
    case FTVM_RISCV_CHANNEL_NET:
        return ftvm_riscv_receive_frame(machine, payload, bytes) == 1;
    case RISCV_CHANNEL_ENTROPY:
        return (machine->config.devices & FTVM_RISCV_ENTROPY) != 0 && bytes <= ftvm_riscv_entropy_wanted(machine) &&
               ftvm_riscv_receive_entropy(machine, payload, bytes) == bytes;
    default:
        return false;
    }
}

bool riscv_give_time(ftvm_riscv *machine, uint64_t ticks)
{
    if (ticks > UINT64_MAX - machine->core.hart.idled)
        return false;
    ftvm_riscv_idle(machine, ticks);
    return true;
}
