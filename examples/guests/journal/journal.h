/* journal: an append-only log on a disk, one record a sector, that finds its end again after any stop.
 *
 * Record n lies in sector n. Each carries its number and the checksum of the record before, so the log is a
 * chain: the first sector that does not continue it is the end. A torn or lost write costs the records from there on,
 * and a write that came twice is no harm; nothing else is ever taken for a record.
 *
 *     offset  size
 *          0     8  magic "journal1", in memory order
 *          8     8  number, from 0
 *         16     8  checksum of the record before; 0 for the first
 *         24     8  note: anything the program wants to keep
 *        504     8  checksum of bytes 0..503
 */
#ifndef JOURNAL_H
#define JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "../virtio/virtio_block.h"

struct journal_record {
    uint64_t magic;
    uint64_t number;
    uint64_t previous;
    uint64_t note;
    uint8_t unused[VIRTIO_BLOCK_SECTOR_BYTES - 5 * sizeof(uint64_t)];
    uint64_t checksum;
};

struct journal {
    struct virtio_block *disk;
    uint64_t count; /* records in the log */
    uint64_t chain; /* checksum of the last, 0 without one */
};

enum journal_result { JOURNAL_OK, JOURNAL_FULL, JOURNAL_DISK_FAILED };

/* Reads the log on `disk` from its start to its end. */
enum journal_result journal_open(struct journal *journal, struct virtio_block *disk);

/* Appends a record. It is durable after journal_sync. */
enum journal_result journal_append(struct journal *journal, uint64_t note);

/* Waits until every record appended is durable. */
enum journal_result journal_sync(struct journal *journal);

#endif
