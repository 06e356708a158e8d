#include "uart.h"

#include "board.h"

#define UART_DATA (BOARD_UART + 0u)   /* write: send; read: receive */
#define UART_ENABLE (BOARD_UART + 1u) /* interrupts */
#define UART_LINE (BOARD_UART + 5u)   /* line status */
#define UART_ENABLE_RECEIVED 0x01u
#define UART_LINE_RECEIVED 0x01u
#define UART_LINE_CAN_SEND 0x20u

void uart_put(char character)
{
    while ((mmio_read8(UART_LINE) & UART_LINE_CAN_SEND) == 0)
        ;
    mmio_write8(UART_DATA, (uint8_t)character);
}

void uart_write(const char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        uart_put(at[i]);
}

int uart_take(void)
{
    if ((mmio_read8(UART_LINE) & UART_LINE_RECEIVED) == 0)
        return -1;
    return mmio_read8(UART_DATA);
}

void uart_interrupt_on_input(void) { mmio_write8(UART_ENABLE, UART_ENABLE_RECEIVED); }
