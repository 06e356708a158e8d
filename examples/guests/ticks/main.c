/* ticks: a timer interrupt every few milliseconds, sleep in between, a line every tenth beat.
 *
 * Boot arguments: ms=10 between beats; beats=100 in all, 0: for ever.
 */
#include <inttypes.h>
#include <stdio.h>

#include "../board/clint.h"
#include "../board/cpu.h"
#include "../board/fdt.h"
#include "../board/program.h"
#include "../board/timer.h"

#define TICKS_PER_MS (BOARD_TICKS_PER_SECOND / 1000)
#define BEATS_PER_LINE 10
#define MS_MAX 60000

int program(const void *device_tree)
{
    const uint64_t ms = fdt_argument(device_tree, "ms", 10);
    const uint64_t beats = fdt_argument(device_tree, "beats", 100);
    if (ms == 0 || ms > MS_MAX) {
        printf("ticks: ms must be 1..%d\n", MS_MAX);
        return 2;
    }
    printf("ticks: a beat every %" PRIu64 " ms\n", ms);
    const uint64_t start = clint_now();
    timer_start(ms * TICKS_PER_MS);
    for (uint64_t count = 1; beats == 0 || count <= beats; count++) {
        timer_wait_for(count);
        if (clint_now() - start < count * ms * TICKS_PER_MS) {
            printf("ticks: beat %" PRIu64 " came too early\n", count);
            return 1;
        }
        if (count % BEATS_PER_LINE == 0)
            printf("ticks: beat %" PRIu64 "\n", count);
    }
    printf("ticks: done, at most %" PRIu64 " ticks late\n", timer_ticks_late_max());
    return 0;
}
