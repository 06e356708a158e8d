/* work: writes to memory as fast as it is told to, and finds out if a write was lost or undone.
 *
 *     work PAGES [spin]      every 100 ms, eight bytes into each of so many random pages of 64 MiB
 *
 * A table beside says what each page must hold; an eighth of the pages is compared at each beat. Twice a second it prints
 * "work: BEAT bad N spun S": N is how many pages were found wrong so far. With `spin` it computes until the next beat
 * instead of sleeping, and S counts that in thousands: what the machine has left for its guest.
 */
#include "board/text.h"
#include "system.h"

#define CONSOLE_OUT 1
#define PAGES 16384u
#define PAGE_WORDS 512u
#define BEAT_NANOS 100000000u
#define BEATS_PER_LINE 5u
#define LOOKS 8u

static uint64_t room[PAGES][PAGE_WORDS];
static uint64_t wanted[PAGES];
static uint64_t seed = 0x9e3779b97f4a7c15u;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void write_pages(uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t page = next_random() % PAGES;
        wanted[page] = next_random();
        room[page][page % PAGE_WORDS] = wanted[page];
    }
}

static uint64_t count_wrong(uint64_t beat)
{
    uint64_t wrong = 0;
    for (uint64_t page = beat % LOOKS; page < PAGES; page += LOOKS)
        wrong += room[page][page % PAGE_WORDS] != wanted[page];
    return wrong;
}

static uint64_t spin_until(uint64_t end)
{
    uint64_t thousands = 0;
    while (system_nanos() < end) {
        for (volatile uint32_t i = 0; i < 1000; i++)
            continue;
        thousands++;
    }
    return thousands;
}

static void sleep_until(uint64_t end)
{
    const uint64_t now = system_nanos();
    if (now >= end)
        return;
    const struct system_time wait = {.seconds = 0, .nanos = (int64_t)(end - now)};
    system_call(SYSTEM_PPOLL, 0, 0, (long)&wait, 0, 0, 0);
}

static void print(uint64_t beat, uint64_t bad, uint64_t spun)
{
    char line_room[96];
    struct text line = text_in(line_room, sizeof line_room);
    text_add(&line, "work: ");
    text_add_number(&line, beat);
    text_add(&line, " bad ");
    text_add_number(&line, bad);
    text_add(&line, " spun ");
    text_add_number(&line, spun);
    text_add(&line, "\n");
    system_call(SYSTEM_WRITE, CONSOLE_OUT, (long)line.at, (long)line.bytes, 0, 0, 0);
}

static uint64_t number_in(const char *text)
{
    uint64_t number = 0;
    for (; *text >= '0' && *text <= '9'; text++)
        number = 10 * number + (uint64_t)(*text - '0');
    return number;
}

/* `stack` is what Linux leaves for a program: the count of its arguments, then pointers to them. */
_Noreturn void init(const long *stack)
{
    const uint64_t pages = stack[0] > 1 ? number_in((const char *)stack[2]) : 0;
    const int spins = stack[0] > 2;
    uint64_t bad = 0;
    uint64_t spun = 0;
    uint64_t next = system_nanos();
    for (uint64_t beat = 1;; beat++) {
        write_pages(pages);
        bad += count_wrong(beat);
        next += BEAT_NANOS;
        if (spins)
            spun += spin_until(next);
        else
            sleep_until(next);
        if (beat % BEATS_PER_LINE == 0)
            print(beat, bad, spun);
    }
}
