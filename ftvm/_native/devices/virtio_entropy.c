#include "virtio_entropy.h"

enum { REQUESTS = 0 };

size_t device_virtio_entropy_wanted(const device_board *board, const device_virtio *virtio)
{
    device_chain chain;
    bool is_ready = device_virtq_peek(board, virtio, REQUESTS, &chain) == DEVICE_CHAIN_READY;
    return is_ready ? chain.writable_bytes : 0;
}

size_t device_virtio_entropy_receive(device_board *board, device_virtio *virtio, const uint8_t *bytes, size_t count)
{
    device_chain chain;
    if (count == 0 || device_virtq_peek(board, virtio, REQUESTS, &chain) != DEVICE_CHAIN_READY)
        return 0;
    size_t taken = device_chain_write(board, &chain, 0, bytes, count);
    device_virtq_use(board, virtio, REQUESTS, &chain, (uint32_t)taken);
    return taken;
}

/* The driver's wish stays in its queue until an input fills it: only a broken queue is refused now. */
static void notify(device_board *board, device_virtio *virtio, unsigned index)
{
    device_chain chain;
    device_virtq_take(board, virtio, index, &chain);
}

static size_t config(const device_board *board, uint8_t *bytes, size_t capacity)
{
    (void)board, (void)bytes, (void)capacity;
    return 0;
}

const device_virtio_type device_virtio_entropy = {
    .device_id = 4,
    .queue_count = 1,
    .features = DEVICE_VIRTIO_VERSION_1,
    .notify = notify,
    .config = config,
};
