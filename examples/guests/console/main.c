/* console: fills the console with numbered lines, then listens and repeats what is typed.
 *
 * Every line says its number and the sum of all characters before it, so that who reads can tell one lost, doubled or
 * altered, wherever it happened. A typed line comes back behind "heard: "; "quit" ends the program.
 *
 * Boot arguments: lines=1000 to print; listen=1, or 0 to end without listening.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../board/board.h"
#include "../board/cpu.h"
#include "../board/fdt.h"
#include "../board/plic.h"
#include "../board/program.h"
#include "../board/uart.h"

#define LINE_BYTES_MAX 128u
#define TYPED_MAX 256u /* a power of two: characters that wait between the interrupt and the program */

static struct {
    char ring[TYPED_MAX];
    volatile uint32_t in; /* counts up; the handler's */
    uint32_t out;         /* counts up; the program's */
} typed;

/* Takes every character that the UART holds; what finds no room is lost, as at any terminal that types too fast. */
static void on_typed(void *device)
{
    (void)device;
    for (int character = uart_take(); character >= 0; character = uart_take())
        if (typed.in - typed.out < TYPED_MAX)
            typed.ring[typed.in++ % TYPED_MAX] = (char)character;
}

static char next_typed(void)
{
    while (typed.in == typed.out)
        cpu_sleep_until_interrupt();
    return typed.ring[typed.out++ % TYPED_MAX];
}

/* Reads a line without its end; what is beyond the room is dropped. */
static void read_line(char *line)
{
    size_t length = 0;
    for (char character = next_typed(); character != '\n' && character != '\r'; character = next_typed())
        if (length < LINE_BYTES_MAX - 1)
            line[length++] = character;
    line[length] = '\0';
}

static void print_lines(uint64_t lines)
{
    char line[LINE_BYTES_MAX];
    uint64_t sum = 0;
    for (uint64_t number = 1; number <= lines; number++) {
        const int length = snprintf(line, sizeof line, "console: line %" PRIu64 " after %" PRIu64 "\n", number, sum);
        for (int i = 0; i < length; i++)
            sum += (unsigned char)line[i];
        uart_write(line, (size_t)length);
    }
}

static void listen(void)
{
    char line[LINE_BYTES_MAX];
    plic_attach(BOARD_UART_IRQ, on_typed, NULL);
    uart_interrupt_on_input();
    printf("console: listening\n");
    for (read_line(line); strcmp(line, "quit") != 0; read_line(line))
        printf("heard: %s\n", line);
}

int program(const void *device_tree)
{
    print_lines(fdt_argument(device_tree, "lines", 1000));
    if (fdt_argument(device_tree, "listen", 1) != 0)
        listen();
    printf("console: done\n");
    return 0;
}
