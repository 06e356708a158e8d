#include "journal.h"

#include <stddef.h>
#include <string.h>

#define MAGIC 0x316c616e72756f6aull /* "journal1" */

_Static_assert(sizeof(struct journal_record) == VIRTIO_BLOCK_SECTOR_BYTES, "a record is a sector");

/* FNV-1a, 64 bits. It finds torn and stale sectors; it does not keep anybody from forging one. */
static uint64_t checksum_of(const struct journal_record *record)
{
    const uint8_t *at = (const uint8_t *)record;
    uint64_t value = 0xcbf29ce484222325u;
    for (size_t i = 0; i < offsetof(struct journal_record, checksum); i++)
        value = (value ^ at[i]) * 0x100000001b3u;
    return value;
}

static bool continues(const struct journal *journal, const struct journal_record *record)
{
    return record->magic == MAGIC && record->number == journal->count && record->previous == journal->chain &&
           record->checksum == checksum_of(record);
}

enum journal_result journal_open(struct journal *journal, struct virtio_block *disk)
{
    struct journal_record record;
    *journal = (struct journal){.disk = disk};
    while (journal->count < disk->sector_count) {
        if (!virtio_block_read(disk, journal->count, (uint8_t *)&record))
            return JOURNAL_DISK_FAILED;
        if (!continues(journal, &record))
            break;
        journal->count += 1;
        journal->chain = record.checksum;
    }
    return JOURNAL_OK;
}

enum journal_result journal_append(struct journal *journal, uint64_t note)
{
    if (journal->count == journal->disk->sector_count)
        return JOURNAL_FULL;
    struct journal_record record;
    memset(&record, 0, sizeof record);
    record.magic = MAGIC;
    record.number = journal->count;
    record.previous = journal->chain;
    record.note = note;
    record.checksum = checksum_of(&record);
    if (!virtio_block_write(journal->disk, journal->count, (const uint8_t *)&record))
        return JOURNAL_DISK_FAILED;
    journal->count += 1;
    journal->chain = record.checksum;
    return JOURNAL_OK;
}

enum journal_result journal_sync(struct journal *journal)
{
    return virtio_block_flush(journal->disk) ? JOURNAL_OK : JOURNAL_DISK_FAILED;
}
