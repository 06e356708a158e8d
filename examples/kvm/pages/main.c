/* pages: writes a word in each of so many pages, says so, and again, for ever.
 *
 * A line that is typed sets the number: `200`. It begins with none and says nothing then, asleep. The pages begin at
 * 16 MiB; the machine must have as much memory behind that.
 *
 *     17      all of them were written for the 17th time since the number was set
 *
 * What a checkpoint costs is measured with it: each line is an output behind so many dirty pages, and a short one, as
 * each character leaves the guest by itself.
 */
#include "../../guests/board/cpu.h"
#include "../../guests/board/plic.h"
#include "../../guests/board/board.h"
#include "../../guests/board/program.h"
#include "../../guests/board/text.h"
#include "../../guests/board/uart.h"

#include <stdbool.h>
#include <stddef.h>

#define FIRST_PAGE (16u << 20)
#define PAGE_BYTES 4096u

static uint64_t wanted, typed;

static void listen(void *device)
{
    (void)device;
    for (int character = uart_take(); character >= 0; character = uart_take()) {
        if (character >= '0' && character <= '9') {
            typed = 10 * typed + (uint64_t)(character - '0');
        } else {
            wanted = typed;
            typed = 0;
        }
    }
}

static void touch(uint64_t count, uint64_t value)
{
    for (uint64_t page = 0; page < count; page++)
        *(volatile uint64_t *)(FIRST_PAGE + page * PAGE_BYTES + value * 8 % PAGE_BYTES) = value;
}

static void report(uint64_t done)
{
    char room[32];
    struct text line = text_in(room, sizeof room);
    text_add_number(&line, done);
    text_add(&line, "\n");
    uart_write(line.at, line.bytes);
}

int program(const void *device_tree)
{
    uint64_t done = 0, before = 0;
    (void)device_tree;
    uart_interrupt_on_input();
    plic_attach(BOARD_UART_IRQ, listen, NULL);
    for (;;) {
        if (wanted == 0)
            cpu_sleep_until_interrupt();
        else
            plic_handle();
        if (wanted != before)
            done = 0;
        before = wanted;
        if (wanted == 0)
            continue;
        touch(wanted, ++done);
        report(done);
    }
}
