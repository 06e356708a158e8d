/* uart: an ns16550 at 0x10000000, interrupt 10, with a receive FIFO of 16 bytes.
 *
 * What it sends becomes outputs of whole lines; see ftvm_device_outputs for the rule. The pending part of a line is
 * state. */
#ifndef FTVM_DEVICES_UART_H
#define FTVM_DEVICES_UART_H

#include "device.h"

#define DEVICE_UART_FIFO 16
#define DEVICE_UART_LINE 128

typedef struct {
    uint8_t ier;
    uint8_t lcr;
    uint8_t mcr;
    uint8_t scr;
    uint8_t fcr;
    uint16_t divisor;
    bool is_thre_pending; /* "transmitter empty" interrupt, since the last write or enabling */
    uint8_t received[DEVICE_UART_FIFO];
    uint8_t received_count;
    uint8_t line[DEVICE_UART_LINE];
    uint8_t line_count;
    uint64_t line_deadline; /* the retired count at which the pending line is flushed; 0 if none is pending */
} device_uart;

extern const device_ops device_uart_ops;

/* Takes up to `count` bytes from outside; returns how many it had room for. */
size_t device_uart_receive(device_uart *uart, const uint8_t *bytes, size_t count);

/* Makes an output of what is pending of a line, if anything is. */
void device_uart_flush(device_board *board, device_uart *uart);

#endif
