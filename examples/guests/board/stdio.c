/* stdio: gives the C library's printf and getchar the console. Linked into the programs that use them.
 *
 * Output is not buffered: what was printed has left the guest when printf returns, which is what a test of output order
 * wants. Input does not wait: without a typed character getchar returns EOF, and a later call may find one.
 *
 * Source: picolibc's documentation, "Operating system support": stdin, stdout and stderr are the program's to define.
 */
#include <stdio.h>

#include "uart.h"

static int put(char character, FILE *file)
{
    (void)file;
    uart_put(character);
    return (unsigned char)character;
}

static int take(FILE *file)
{
    (void)file;
    const int character = uart_take();
    return character < 0 ? _FDEV_EOF : character;
}

static FILE console = FDEV_SETUP_STREAM(put, take, NULL, _FDEV_SETUP_RW);

FILE *const stdin = &console;
FILE *const stdout = &console;
FILE *const stderr = &console;
