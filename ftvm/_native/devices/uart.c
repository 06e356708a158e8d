#include "uart.h"

#include <string.h>

enum { RBR_THR = 0, IER = 1, IIR_FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { IER_RECEIVED = 1, IER_THRE = 2, IER_WRITABLE = 15 };
enum { IIR_NONE = 1, IIR_THRE = 2, IIR_RECEIVED = 4, IIR_FIFOS = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RECEIVED = 2 };
enum { LCR_DLAB = 0x80 };
enum { MCR_LOOP = 0x10, MCR_WRITABLE = 0x1f };
enum { LSR_DATA = 1, LSR_THRE = 0x20, LSR_EMPTY = 0x40 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

size_t device_uart_receive(device_uart *uart, const uint8_t *bytes, size_t count)
{
    size_t room = (size_t)(DEVICE_UART_FIFO - uart->received_count);
    size_t taken = count < room ? count : room;
    memcpy(uart->received + uart->received_count, bytes, taken);
    uart->received_count = (uint8_t)(uart->received_count + taken);
    return taken;
}

static uint8_t take_received(device_uart *uart)
{
    if (uart->received_count == 0)
        return 0;
    uint8_t byte = uart->received[0];
    uart->received_count--;
    memmove(uart->received, uart->received + 1, uart->received_count);
    return byte;
}

void device_uart_flush(device_board *board, device_uart *uart)
{
    if (uart->line_count != 0)
        device_output_add(&board->output, DEVICE_CHANNEL_CONSOLE, uart->line, uart->line_count);
    uart->line_count = 0;
    uart->line_deadline = 0;
}

static void transmit(device_board *board, device_uart *uart, uint8_t byte)
{
    uart->is_thre_pending = true; /* sent at once, so the register is empty again */
    if ((uart->mcr & MCR_LOOP) != 0) {
        device_uart_receive(uart, &byte, 1);
        return;
    }
    if (uart->line_count == 0)
        uart->line_deadline = board->now(board) + board->line_ticks;
    uart->line[uart->line_count++] = byte;
    if (byte == '\n' || uart->line_count == DEVICE_UART_LINE)
        device_uart_flush(board, uart);
}

static uint8_t interrupt_cause(const device_uart *uart)
{
    if ((uart->ier & IER_RECEIVED) != 0 && uart->received_count != 0)
        return IIR_RECEIVED;
    if ((uart->ier & IER_THRE) != 0 && uart->is_thre_pending)
        return IIR_THRE;
    return IIR_NONE;
}

static uint8_t read_iir(device_uart *uart)
{
    uint8_t cause = interrupt_cause(uart);
    if (cause == IIR_THRE)
        uart->is_thre_pending = false; /* reading it is its acknowledgement */
    return (uint8_t)(cause | ((uart->fcr & FCR_ENABLE) != 0 ? IIR_FIFOS : 0));
}

/* In loop mode the modem inputs are the modem outputs: how drivers tell that a uart is there. */
static uint8_t read_msr(const device_uart *uart)
{
    uint8_t out = uart->mcr;
    if ((out & MCR_LOOP) == 0)
        return MSR_DCD | MSR_DSR | MSR_CTS;
    return (uint8_t)(((out & 2) != 0 ? MSR_CTS : 0) | ((out & 1) != 0 ? MSR_DSR : 0) | ((out & 4) != 0 ? MSR_RI : 0) |
                     ((out & 8) != 0 ? MSR_DCD : 0));
}

static bool uart_read(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    (void)board;
    device_uart *uart = device;
    bool is_divisor = (uart->lcr & LCR_DLAB) != 0;
    if (size != 1)
        return false;
    switch (offset) {
    case RBR_THR: *value = is_divisor ? uart->divisor & 0xff : take_received(uart); return true;
    case IER: *value = is_divisor ? uart->divisor >> 8 : uart->ier; return true;
    case IIR_FCR: *value = read_iir(uart); return true;
    case LCR: *value = uart->lcr; return true;
    case MCR: *value = uart->mcr; return true;
    case LSR: *value = (uint64_t)(LSR_THRE | LSR_EMPTY | (uart->received_count != 0 ? LSR_DATA : 0)); return true;
    case MSR: *value = read_msr(uart); return true;
    case SCR: *value = uart->scr; return true;
    default: *value = 0; return true;
    }
}

static void write_ier(device_uart *uart, uint8_t value)
{
    if ((value & IER_THRE) != 0 && (uart->ier & IER_THRE) == 0)
        uart->is_thre_pending = true;
    uart->ier = value & IER_WRITABLE;
}

static void write_fcr(device_uart *uart, uint8_t value)
{
    if ((value & FCR_CLEAR_RECEIVED) != 0)
        uart->received_count = 0;
    uart->fcr = value & FCR_ENABLE;
}

static bool uart_write(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    device_uart *uart = device;
    uint8_t byte = (uint8_t)value;
    bool is_divisor = (uart->lcr & LCR_DLAB) != 0;
    if (size != 1)
        return false;
    if (is_divisor && offset == RBR_THR)
        uart->divisor = (uint16_t)((uart->divisor & 0xff00) | byte);
    else if (is_divisor && offset == IER)
        uart->divisor = (uint16_t)((uart->divisor & 0xff) | byte << 8);
    else if (offset == RBR_THR)
        transmit(board, uart, byte);
    else if (offset == IER)
        write_ier(uart, byte);
    else if (offset == IIR_FCR)
        write_fcr(uart, byte);
    else if (offset == LCR)
        uart->lcr = byte;
    else if (offset == MCR)
        uart->mcr = byte & MCR_WRITABLE;
    else if (offset == SCR)
        uart->scr = byte;
    return true;
}

static bool uart_line(const void *device)
{
    return interrupt_cause(device) != IIR_NONE;
}

static void uart_save(const void *device, wire_writer *writer)
{
    const device_uart *uart = device;
    wire_write_u8(writer, uart->ier);
    wire_write_u8(writer, uart->lcr);
    wire_write_u8(writer, uart->mcr);
    wire_write_u8(writer, uart->scr);
    wire_write_u8(writer, uart->fcr);
    wire_write_uint(writer, 2, uart->divisor);
    wire_write_u8(writer, uart->is_thre_pending);
    wire_write_u8(writer, uart->received_count);
    for (unsigned i = 0; i < DEVICE_UART_FIFO; i++)
        wire_write_u8(writer, i < uart->received_count ? uart->received[i] : 0);
    wire_write_u8(writer, uart->line_count);
    for (unsigned i = 0; i < DEVICE_UART_LINE; i++)
        wire_write_u8(writer, i < uart->line_count ? uart->line[i] : 0);
    wire_write_u64(writer, uart->line_deadline);
}

static bool is_zero(const uint8_t *bytes, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

static const char *uart_load(void *device, wire_reader *reader)
{
    device_uart *uart = device;
    bool is_bad = false;
    uart->ier = wire_read_u8(reader);
    uart->lcr = wire_read_u8(reader);
    uart->mcr = wire_read_u8(reader);
    uart->scr = wire_read_u8(reader);
    uart->fcr = wire_read_u8(reader);
    uart->divisor = (uint16_t)wire_read_uint(reader, 2);
    uart->is_thre_pending = wire_read_flag(reader, &is_bad);
    uart->received_count = wire_read_u8(reader);
    for (unsigned i = 0; i < DEVICE_UART_FIFO; i++)
        uart->received[i] = wire_read_u8(reader);
    uart->line_count = wire_read_u8(reader);
    for (unsigned i = 0; i < DEVICE_UART_LINE; i++)
        uart->line[i] = wire_read_u8(reader);
    uart->line_deadline = wire_read_u64(reader);
    if (uart->received_count > DEVICE_UART_FIFO)
        return "uart: more bytes received than the FIFO holds";
    if (uart->line_count >= DEVICE_UART_LINE)
        return "uart: the pending line is too long";
    if (!is_zero(uart->received, uart->received_count, DEVICE_UART_FIFO) ||
        !is_zero(uart->line, uart->line_count, DEVICE_UART_LINE))
        return "uart: there are bytes behind the last one";
    if (is_bad || uart->ier > IER_WRITABLE || uart->mcr > MCR_WRITABLE || uart->fcr > FCR_ENABLE)
        return "uart: a register has bits that do not exist";
    return NULL;
}

const device_ops device_uart_ops = {uart_read, uart_write, uart_line, uart_save, uart_load};
