/* work: writes its memory and numbered lines, for ever, and repeats what is typed.
 *
 *     work: N sum S          every line: how many blocks of the heap were written so far, and a sum over all of them
 *     work: typed TEXT       a line that was typed; `quit` ends the program with code 0, `fail` with code 3,
 *                            `crash` by an instruction that does not exist
 *
 * The sum is over what the heap holds, not over what was written: a page that a takeover lost shows in the next line.
 * Without input all that it says depends on its memory alone.
 */
#include "../../guests/board/program.h"
#include "../../guests/board/text.h"
#include "../../guests/board/uart.h"
#include "../board/heap.h"

#include <stdbool.h>
#include <string.h>

#define BLOCKS 64u
#define BLOCK_WORDS 512u /* a page */
#define LINE_BYTES_MAX 80u

static uint64_t *blocks[BLOCKS];
static struct {
    char bytes[LINE_BYTES_MAX];
    size_t count;
} typed;

/* xorshift64: the next of a sequence that never comes to 0. */
static uint64_t next(uint64_t value)
{
    value ^= value << 13;
    value ^= value >> 7;
    return value ^ value << 17;
}

static uint64_t sum(void)
{
    uint64_t total = 0;
    for (size_t block = 0; block < BLOCKS; block++) {
        for (size_t word = 0; word < BLOCK_WORDS; word++)
            total = (total ^ blocks[block][word]) * 0x100000001b3u;
    }
    return total;
}

static void say(struct text *line)
{
    text_add(line, "\n");
    uart_write(line->at, line->bytes);
}

static void report(uint64_t number)
{
    char room[96];
    struct text line = text_in(room, sizeof room);
    text_add(&line, "work: ");
    text_add_number(&line, number);
    text_add(&line, " sum ");
    text_add_hex(&line, sum());
    say(&line);
}

static bool is_typed(const char *word)
{
    return typed.count == strlen(word) && memcmp(typed.bytes, word, typed.count) == 0;
}

static void repeat(void)
{
    char room[LINE_BYTES_MAX + 16];
    struct text line = text_in(room, sizeof room);
    typed.bytes[typed.count] = '\0';
    text_add(&line, "work: typed ");
    text_add(&line, typed.bytes);
    say(&line);
}

/* Takes what was typed. Returns the code to end with, -1 to go on. */
static int listen(void)
{
    for (int character = uart_take(); character >= 0; character = uart_take()) {
        if (character != '\n') {
            if (typed.count < LINE_BYTES_MAX - 1)
                typed.bytes[typed.count++] = (char)character;
            continue;
        }
        repeat();
        if (is_typed("quit"))
            return 0;
        if (is_typed("fail"))
            return 3;
        if (is_typed("crash"))
            __asm__ volatile("ud2");
        typed.count = 0;
    }
    return -1;
}

int program(const void *device_tree)
{
    uint64_t value = 1;
    (void)device_tree;
    for (size_t block = 0; block < BLOCKS; block++) {
        blocks[block] = heap_take(BLOCK_WORDS * sizeof(uint64_t));
        if (blocks[block] == NULL)
            return 1;
    }
    for (uint64_t number = 1;; number++) {
        uint64_t *block = blocks[number % BLOCKS];
        for (size_t word = 0; word < BLOCK_WORDS; word++)
            block[word] = value = next(value);
        report(number);
        const int code = listen();
        if (code >= 0)
            return code;
    }
}
