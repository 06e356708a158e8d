/* virtio_block: reads and writes sectors of a disk, one request at a time, asleep while the device works.
 *
 * Source: VIRTIO 1.2, section 5.2; features: VERSION_1 and FLUSH.
 */
#ifndef VIRTIO_BLOCK_H
#define VIRTIO_BLOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio.h"

#define VIRTIO_BLOCK_SECTOR_BYTES 512u

/* What stands before the data of each request, as the standard draws it. */
struct virtio_block_header {
    uint32_t operation;
    uint32_t reserved;
    uint64_t sector;
};

struct virtio_block {
    struct virtio_device device;
    uint64_t sector_count;
    struct virtio_block_header header;
    volatile uint8_t status;
    struct virtio_queue queue;
};

/* Finds the disk and starts it. *block is zero. Returns false without a disk. */
bool virtio_block_start(struct virtio_block *block);

/* Reads or writes one sector. Returns false if the device says that it failed; the sector is then in doubt. */
bool virtio_block_read(struct virtio_block *block, uint64_t sector, uint8_t *data);
bool virtio_block_write(struct virtio_block *block, uint64_t sector, const uint8_t *data);

/* Waits until everything written is durable. A disk without FLUSH makes each write durable by itself. */
bool virtio_block_flush(struct virtio_block *block);

#endif
