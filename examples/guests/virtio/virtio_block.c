#include "virtio_block.h"

#include "../board/plic.h"

#define QUEUE 0u
#define FEATURE_FLUSH (1ull << 9)
#define CONFIG_CAPACITY 0u

#define OPERATION_READ 0u
#define OPERATION_WRITE 1u
#define OPERATION_FLUSH 4u
#define STATUS_OK 0u
#define STATUS_NONE 0xffu /* not a value the device writes: it has not answered */

/* Descriptors of the one request: header, data, status. */
#define AT_HEADER 0u
#define AT_DATA 1u
#define AT_STATUS 2u

bool virtio_block_start(struct virtio_block *block)
{
    if (!virtio_find(VIRTIO_BLOCK, FEATURE_FLUSH, &block->device) ||
        !virtio_queue_start(&block->device, QUEUE, &block->queue))
        return false;
    block->sector_count = virtio_config64(&block->device, CONFIG_CAPACITY);
    plic_attach(block->device.irq, virtio_interrupt, &block->device);
    virtio_ready(&block->device);
    return true;
}

/* Sends what the descriptors say and sleeps until it is done. */
static bool perform(struct virtio_block *block, uint32_t operation, uint64_t sector)
{
    struct virtio_used_element used;
    block->header = (struct virtio_block_header){.operation = operation, .sector = sector};
    block->status = STATUS_NONE;
    virtio_queue_offer(&block->queue, AT_HEADER);
    virtio_notify(&block->device, QUEUE);
    do
        virtio_queue_wait(&block->queue);
    while (!virtio_queue_take(&block->queue, &used));
    return block->status == STATUS_OK;
}

static void describe(struct virtio_block *block, const void *data, uint16_t data_flags)
{
    struct virtio_descriptor *descriptors = block->queue.descriptors;
    const bool has_data = data != NULL;
    descriptors[AT_HEADER] = (struct virtio_descriptor){
        .address = (uintptr_t)&block->header,
        .bytes = sizeof block->header,
        .flags = VIRTIO_DESCRIPTOR_NEXT,
        .next = has_data ? AT_DATA : AT_STATUS,
    };
    descriptors[AT_DATA] = (struct virtio_descriptor){
        .address = (uintptr_t)data,
        .bytes = VIRTIO_BLOCK_SECTOR_BYTES,
        .flags = (uint16_t)(VIRTIO_DESCRIPTOR_NEXT | data_flags),
        .next = AT_STATUS,
    };
    descriptors[AT_STATUS] = (struct virtio_descriptor){
        .address = (uintptr_t)&block->status,
        .bytes = sizeof block->status,
        .flags = VIRTIO_DESCRIPTOR_WRITE,
    };
}

bool virtio_block_read(struct virtio_block *block, uint64_t sector, uint8_t *data)
{
    describe(block, data, VIRTIO_DESCRIPTOR_WRITE);
    return perform(block, OPERATION_READ, sector);
}

bool virtio_block_write(struct virtio_block *block, uint64_t sector, const uint8_t *data)
{
    describe(block, data, 0);
    return perform(block, OPERATION_WRITE, sector);
}

bool virtio_block_flush(struct virtio_block *block)
{
    if ((block->device.features & FEATURE_FLUSH) == 0)
        return true;
    describe(block, NULL, 0);
    return perform(block, OPERATION_FLUSH, 0);
}
