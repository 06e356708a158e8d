/* journal: appends records to a log on the disk, says each time how far it is durable, then reads it all back.
 *
 * Started again on the same disk it goes on where the log ends. Who reads the console knows at any moment which
 * records a disk must hold: at least up to the last "durable".
 *
 * Boot arguments: records=64 to append; batch=8 records between two waits for durability; ms=0 of sleep after each
 * batch.
 */
#include "journal.h"

#include <inttypes.h>
#include <stdio.h>

#include "../board/board.h"
#include "../board/cpu.h"
#include "../board/fdt.h"
#include "../board/program.h"
#include "../board/timer.h"

#define MS_MAX 60000

static struct virtio_block disk;

static int tell_failure(enum journal_result result)
{
    printf("journal: %s\n", result == JOURNAL_FULL ? "the disk is full" : "the disk failed");
    return 1;
}

static enum journal_result append_batch(struct journal *journal, uint64_t records)
{
    for (uint64_t i = 0; i < records; i++) {
        const enum journal_result result = journal_append(journal, cpu_retired());
        if (result != JOURNAL_OK)
            return result;
    }
    return journal_sync(journal);
}

/* Reads the log as a fresh start would and compares it with what was written. */
static int check(const struct journal *written)
{
    struct journal read;
    const enum journal_result result = journal_open(&read, &disk);
    if (result != JOURNAL_OK)
        return tell_failure(result);
    const bool is_same = read.count == written->count && read.chain == written->chain;
    printf("journal: read back %" PRIu64 " records, %s\n", read.count, is_same ? "all as written" : "not as written");
    return is_same ? 0 : 1;
}

int program(const void *device_tree)
{
    const uint64_t records = fdt_argument(device_tree, "records", 64);
    const uint64_t batch = fdt_argument(device_tree, "batch", 8);
    const uint64_t ms = fdt_argument(device_tree, "ms", 0);
    if (batch == 0 || ms > MS_MAX) {
        printf("journal: batch must be 1 or more, ms at most %d\n", MS_MAX);
        return 2;
    }
    if (!virtio_block_start(&disk)) {
        printf("journal: no virtio block device\n");
        return 1;
    }
    struct journal journal;
    enum journal_result result = journal_open(&journal, &disk);
    if (result != JOURNAL_OK)
        return tell_failure(result);
    printf("journal: found %" PRIu64 " records on a disk of %" PRIu64 " sectors\n", journal.count, disk.sector_count);

    if (ms > 0)
        timer_start(ms * (BOARD_TICKS_PER_SECOND / 1000));
    uint64_t beats = 0;
    for (uint64_t left = records; left > 0;) {
        const uint64_t now = left < batch ? left : batch;
        result = append_batch(&journal, now);
        if (result != JOURNAL_OK)
            return tell_failure(result);
        printf("journal: %" PRIu64 " durable\n", journal.count);
        left -= now;
        if (ms > 0)
            timer_wait_for(++beats);
    }
    return check(&journal);
}
