#include "virtio_entropy.h"

#include "../board/plic.h"

#define QUEUE 0u

bool virtio_entropy_start(struct virtio_entropy *entropy)
{
    if (!virtio_find(VIRTIO_ENTROPY, 0, &entropy->device) ||
        !virtio_queue_start(&entropy->device, QUEUE, &entropy->queue))
        return false;
    plic_attach(entropy->device.irq, virtio_interrupt, &entropy->device);
    virtio_ready(&entropy->device);
    return true;
}

void virtio_entropy_fill(struct virtio_entropy *entropy, uint8_t *at, size_t bytes)
{
    while (bytes > 0) {
        struct virtio_used_element used = {.bytes = 0};
        entropy->queue.descriptors[0] = (struct virtio_descriptor){
            .address = (uintptr_t)at,
            .bytes = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes,
            .flags = VIRTIO_DESCRIPTOR_WRITE,
        };
        virtio_queue_offer(&entropy->queue, 0);
        virtio_notify(&entropy->device, QUEUE);
        do
            virtio_queue_wait(&entropy->queue);
        while (!virtio_queue_take(&entropy->queue, &used));
        const size_t filled = used.bytes < bytes ? used.bytes : bytes;
        at += filled;
        bytes -= filled;
    }
}
