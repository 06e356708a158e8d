#include "../../guests/board/uart.h"

#include "../../guests/board/board.h"
#include "port.h"

#define UART_DATA (BOARD_UART + 0u)   /* write: send; read: receive */
#define UART_ENABLE (BOARD_UART + 1u) /* interrupts */
#define UART_LINE (BOARD_UART + 5u)   /* line status */
#define UART_ENABLE_RECEIVED 0x01u
#define UART_LINE_RECEIVED 0x01u

/* The device is always ready to send: asking it would cost another exit for each character. */
void uart_put(char character) { port_write8(UART_DATA, (uint8_t)character); }

void uart_write(const char *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        uart_put(at[i]);
}

int uart_take(void)
{
    if ((port_read8(UART_LINE) & UART_LINE_RECEIVED) == 0)
        return -1;
    return port_read8(UART_DATA);
}

void uart_interrupt_on_input(void) { port_write8(UART_ENABLE, UART_ENABLE_RECEIVED); }
