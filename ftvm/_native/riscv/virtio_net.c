#include "virtio_net.h"

#include <string.h>

#include "bus.h"

enum { RECEIVE = 0, TRANSMIT = 1, HEADER_BYTES = 12 };
#define FEATURE_MAC (UINT64_C(1) << 5)

/* Every frame that waits becomes an output, at this very instruction; one that is too long or empty is dropped. */
static void transmit(ftvm_riscv *machine, riscv_virtio *virtio)
{
    riscv_chain chain;
    uint8_t frame[FTVM_RISCV_FRAME_BYTES_MAX];
    unsigned taken = 0;
    while (taken++ < RISCV_VIRTQ_SIZE_MAX && riscv_virtq_take(machine, virtio, TRANSMIT, &chain)) {
        size_t bytes = chain.readable_bytes > HEADER_BYTES ? chain.readable_bytes - HEADER_BYTES : 0;
        if (bytes != 0 && bytes <= sizeof frame) {
            riscv_chain_read(machine, &chain, HEADER_BYTES, frame, bytes);
            riscv_output_add(&machine->output, FTVM_RISCV_CHANNEL_NET, frame, bytes);
        }
        riscv_virtq_use(machine, virtio, TRANSMIT, &chain, 0);
    }
}

static void notify(ftvm_riscv *machine, riscv_virtio *virtio, unsigned index)
{
    riscv_chain chain;
    if (index == TRANSMIT)
        transmit(machine, virtio);
    else
        riscv_virtq_take(machine, virtio, index, &chain); /* only to refuse a broken queue now */
}

static size_t config(const ftvm_riscv *machine, uint8_t *bytes, size_t capacity)
{
    (void)capacity;
    memcpy(bytes, machine->config.mac, sizeof machine->config.mac);
    return sizeof machine->config.mac;
}

int riscv_virtio_net_receive(ftvm_riscv *machine, const uint8_t *frame, size_t bytes)
{
    static const uint8_t header[HEADER_BYTES] = {[10] = 1}; /* in one buffer, no offloads */
    riscv_virtio *virtio = &machine->core.net;
    riscv_chain chain;
    if (bytes > FTVM_RISCV_FRAME_BYTES_MAX)
        return -1;
    if (riscv_virtq_peek(machine, virtio, RECEIVE, &chain) != RISCV_CHAIN_READY)
        return 0;
    if (chain.writable_bytes < HEADER_BYTES + bytes)
        return 1; /* the driver offers less than a frame needs: lost, as on a real one */
    riscv_chain_write(machine, &chain, 0, header, sizeof header);
    riscv_chain_write(machine, &chain, sizeof header, frame, bytes);
    riscv_virtq_use(machine, virtio, RECEIVE, &chain, (uint32_t)(sizeof header + bytes));
    return 1;
}

const riscv_virtio_type riscv_virtio_net = {
    .device_id = 1,
    .queue_count = 2,
    .features = RISCV_VIRTIO_VERSION_1 | FEATURE_MAC,
    .notify = notify,
    .config = config,
};
