/* uart: the console, an ns16550. Writing waits for the device byte by byte; reading is left to who needs it.
 *
 * Source: National Semiconductor PC16550D data sheet, registers THR and LSR.
 */
#ifndef UART_H
#define UART_H

#include <stddef.h>

/* Writes `bytes` bytes as they are. */
void uart_write(const char *at, size_t bytes);

/* Writes one character. */
void uart_put(char character);

/* Takes the next character typed, 0..255, or -1 if nothing was typed. */
int uart_take(void);

/* Lets a typed character raise interrupt BOARD_UART_IRQ until it is taken. */
void uart_interrupt_on_input(void);

#endif
