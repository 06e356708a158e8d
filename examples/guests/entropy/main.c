/* entropy: draws random bytes from the host and prints them, and looks whether they are random at all.
 *
 * Every draw is an input that no replay could guess: it must come out of the log. What was printed must be what the
 * memory holds later; the last line is the sum over all of it.
 *
 * Boot arguments: draws=16 of 32 bytes each.
 */
#include <inttypes.h>
#include <stdio.h>

#include "../board/fdt.h"
#include "../board/program.h"
#include "../virtio/virtio_entropy.h"

#define DRAW_BYTES 32u
#define DRAWS_MAX 4096u

static struct virtio_entropy entropy;
static uint8_t drawn[DRAWS_MAX][DRAW_BYTES];

static void print_draw(const uint8_t *draw)
{
    printf("entropy: ");
    for (size_t i = 0; i < DRAW_BYTES; i++)
        printf("%02x", draw[i]);
    printf("\n");
}

static unsigned ones_in(uint8_t byte)
{
    unsigned ones = 0;
    for (; byte != 0; byte &= (uint8_t)(byte - 1))
        ones += 1;
    return ones;
}

/* A coin thrown n times shows heads n/2 times, give or take; 8 standard deviations is no chance but a broken source. */
static int judge(size_t draws)
{
    uint64_t ones = 0;
    uint64_t sum = 0;
    for (size_t i = 0; i < draws; i++)
        for (size_t k = 0; k < DRAW_BYTES; k++) {
            ones += ones_in(drawn[i][k]);
            sum = sum * 31 + drawn[i][k];
        }
    const int64_t bits = (int64_t)(draws * DRAW_BYTES * 8);
    const int64_t excess = 2 * (int64_t)ones - bits; /* standard deviation: the root of `bits` */
    const int is_random = excess * excess <= 64 * bits;
    printf("entropy: %s, sum %016" PRIx64 "\n", is_random ? "looks random" : "does not look random", sum);
    return is_random ? 0 : 1;
}

int program(const void *device_tree)
{
    const uint64_t draws = fdt_argument(device_tree, "draws", 16);
    if (draws == 0 || draws > DRAWS_MAX) {
        printf("entropy: draws must be 1..%u\n", DRAWS_MAX);
        return 2;
    }
    if (!virtio_entropy_start(&entropy)) {
        printf("entropy: no virtio entropy device\n");
        return 1;
    }
    printf("entropy: drawing %" PRIu64 " times\n", draws);
    for (size_t i = 0; i < draws; i++) {
        virtio_entropy_fill(&entropy, drawn[i], DRAW_BYTES);
        print_draw(drawn[i]);
    }
    return judge(draws);
}
