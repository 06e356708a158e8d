#include "virtio_net.h"

#include <string.h>

enum { RECEIVE = 0, TRANSMIT = 1, HEADER_BYTES = 12 };
#define FEATURE_MAC (UINT64_C(1) << 5)

/* Every frame that waits becomes an output, at this very instruction; one that is too long or empty is dropped. */
static void transmit(device_board *board, device_virtio *virtio)
{
    device_chain chain;
    uint8_t frame[DEVICE_FRAME_BYTES_MAX];
    unsigned taken = 0;
    while (taken++ < DEVICE_VIRTQ_SIZE_MAX && device_virtq_take(board, virtio, TRANSMIT, &chain)) {
        size_t bytes = chain.readable_bytes > HEADER_BYTES ? chain.readable_bytes - HEADER_BYTES : 0;
        if (bytes != 0 && bytes <= sizeof frame) {
            device_chain_read(board, &chain, HEADER_BYTES, frame, bytes);
            device_output_add(&board->output, DEVICE_CHANNEL_NET, frame, bytes);
        }
        device_virtq_use(board, virtio, TRANSMIT, &chain, 0);
    }
}

static void notify(device_board *board, device_virtio *virtio, unsigned index)
{
    device_chain chain;
    if (index == TRANSMIT)
        transmit(board, virtio);
    else
        device_virtq_take(board, virtio, index, &chain); /* only to refuse a broken queue now */
}

static size_t config(const device_board *board, uint8_t *bytes, size_t capacity)
{
    (void)capacity;
    memcpy(bytes, board->mac, sizeof board->mac);
    return sizeof board->mac;
}

int device_virtio_net_receive(device_board *board, device_virtio *virtio, const uint8_t *frame, size_t bytes)
{
    static const uint8_t header[HEADER_BYTES] = {[10] = 1}; /* in one buffer, no offloads */
    device_chain chain;
    if (bytes > DEVICE_FRAME_BYTES_MAX)
        return -1;
    if (device_virtq_peek(board, virtio, RECEIVE, &chain) != DEVICE_CHAIN_READY)
        return 0;
    if (chain.writable_bytes < HEADER_BYTES + bytes)
        return 1; /* the driver offers less than a frame needs: lost, as on a real one */
    device_chain_write(board, &chain, 0, header, sizeof header);
    device_chain_write(board, &chain, sizeof header, frame, bytes);
    device_virtq_use(board, virtio, RECEIVE, &chain, (uint32_t)(sizeof header + bytes));
    return 1;
}

const device_virtio_type device_virtio_net = {
    .device_id = 1,
    .queue_count = 2,
    .features = DEVICE_VIRTIO_VERSION_1 | FEATURE_MAC,
    .notify = notify,
    .config = config,
};
