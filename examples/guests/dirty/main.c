/* dirty: writes to memory at a set rate and in a set pattern, and can prove afterwards that no write was lost.
 *
 * Boot arguments:
 *     pages=1024    in the working set (1..32768, and what the memory holds)
 *     rate=40000    pages written per second; 0: as fast as it can
 *     writes=0      to do in all, then a check and the end; 0: for ever
 *     words=1       8-byte words changed per write, spread over the page (1..512)
 *     pattern=sequential | random | hot     hot: nine of ten writes go to a tenth of the pages
 *
 * Every write adds 1 to each of its words, so the words of all pages together must come to writes * words: a page that
 * went back to an older content, even one word of it, shows. The same arguments give the same final memory.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "../board/board.h"
#include "../board/fdt.h"
#include "../board/program.h"
#include "../board/timer.h"

#define PAGE_BYTES 4096u
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))
#define PAGES_MAX 32768u
#define BEATS_PER_SECOND 200u /* the rate is kept over 5 ms */
#define RATE_MAX 100000000u
#define WORD_STEP 37u /* odd, so that a page's words are all met before one comes again */

extern uint8_t image_end[]; /* link.ld: the first byte that no program uses */

enum pattern { SEQUENTIAL, RANDOM, HOT };

struct load {
    uint64_t pages;
    uint64_t rate;
    uint64_t writes;
    uint64_t words;
    enum pattern pattern;
    uint64_t (*memory)[PAGE_WORDS];
};

/* xorshift64*: a fixed seed, because the same arguments must give the same memory. */
static uint64_t random_next(void)
{
    static uint64_t value = 0x9e3779b97f4a7c15u;
    value ^= value >> 12;
    value ^= value << 25;
    value ^= value >> 27;
    return value * 0x2545f4914f6cdd1du;
}

static uint64_t random_below(uint64_t limit) { return (random_next() >> 32) * limit >> 32; }

static uint64_t choose_page(const struct load *load, uint64_t write)
{
    if (load->pattern == SEQUENTIAL)
        return write % load->pages;
    const uint64_t hot_pages = (load->pages + 9) / 10;
    if (load->pattern == HOT && random_below(10) != 0)
        return random_below(hot_pages);
    return random_below(load->pages);
}

static void do_writes(const struct load *load, uint64_t first, uint64_t count)
{
    for (uint64_t write = first; write < first + count; write++) {
        uint64_t *page = load->memory[choose_page(load, write)];
        for (uint64_t i = 0; i < load->words; i++)
            page[(write + i) * WORD_STEP % PAGE_WORDS] += 1;
    }
}

static uint64_t sum_of_memory(const struct load *load)
{
    uint64_t sum = 0;
    for (uint64_t page = 0; page < load->pages; page++)
        for (size_t word = 0; word < PAGE_WORDS; word++)
            sum += load->memory[page][word];
    return sum;
}

static int check(const struct load *load, uint64_t writes)
{
    const uint64_t expected = writes * load->words;
    const uint64_t found = sum_of_memory(load);
    printf("dirty: %" PRIu64 " writes, %" PRIu64 " words expected, %" PRIu64 " found\n", writes, expected, found);
    return found == expected ? 0 : 1;
}

/* Writes until told to stop or for ever; once a second it says how far it is. */
static int run(const struct load *load)
{
    uint64_t done = 0;
    if (load->rate > 0)
        timer_start(BOARD_TICKS_PER_SECOND / BEATS_PER_SECOND);
    for (uint64_t beat = 1; load->writes == 0 || done < load->writes; beat++) {
        const uint64_t due = load->rate > 0 ? load->rate * beat / BEATS_PER_SECOND : done + RATE_MAX / BEATS_PER_SECOND;
        const uint64_t until = load->writes != 0 && due > load->writes ? load->writes : due;
        do_writes(load, done, until - done);
        done = until;
        if (load->rate > 0)
            timer_wait_for(beat);
        if (beat % BEATS_PER_SECOND == 0)
            printf("dirty: %" PRIu64 " writes\n", done);
    }
    return check(load, done);
}

/* How many pages lie between the program and the end of memory; the device tree may lie in the last 2 MiB. */
static uint64_t free_pages(const void *device_tree)
{
    const uint64_t end = BOARD_MEMORY + fdt_memory_bytes(device_tree);
    const uint64_t kept = (uintptr_t)image_end + (2u << 20) + PAGE_BYTES;
    return end > kept ? (end - kept) / PAGE_BYTES : 0;
}

static bool read_arguments(const void *tree, struct load *load)
{
    load->pages = fdt_argument(tree, "pages", 1024);
    load->rate = fdt_argument(tree, "rate", 40000);
    load->writes = fdt_argument(tree, "writes", 0);
    load->words = fdt_argument(tree, "words", 1);
    load->pattern = fdt_argument_is(tree, "pattern", "random") ? RANDOM
                    : fdt_argument_is(tree, "pattern", "hot")  ? HOT
                                                               : SEQUENTIAL;
    load->memory = (void *)(((uintptr_t)image_end + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1));
    return load->pages >= 1 && load->pages <= PAGES_MAX && load->pages <= free_pages(tree) && load->rate <= RATE_MAX &&
           load->words >= 1 && load->words <= PAGE_WORDS;
}

int program(const void *device_tree)
{
    static const char *const names[] = {[SEQUENTIAL] = "sequential", [RANDOM] = "random", [HOT] = "hot"};
    struct load load;
    if (!read_arguments(device_tree, &load)) {
        printf("dirty: an argument is out of range, or the memory is too small; %" PRIu64 " pages are free\n",
               free_pages(device_tree));
        return 2;
    }
    for (uint64_t page = 0; page < load.pages; page++)
        memset(load.memory[page], 0, PAGE_BYTES);
    printf("dirty: %" PRIu64 " pages, %" PRIu64 " writes/s, %" PRIu64 " words each, %s\n", load.pages, load.rate,
           load.words, names[load.pattern]);
    return run(&load);
}
