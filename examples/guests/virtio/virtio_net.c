#include "virtio_net.h"

#include "../board/plic.h"

#define RECEIVE_QUEUE 0u
#define SEND_QUEUE 1u
#define FEATURE_MAC (1ull << 5)

/* Used if the device names no address: locally administered. */
static const uint8_t mac_default[ETHERNET_ADDRESS_BYTES] = {0x02, 0x46, 0x54, 0x4b, 0x56, 0x02};

static void read_mac(struct virtio_net *net)
{
    const bool has_mac = (net->device.features & FEATURE_MAC) != 0;
    for (uint32_t i = 0; i < ETHERNET_ADDRESS_BYTES; i++)
        net->mac[i] = has_mac ? virtio_config8(&net->device, i) : mac_default[i];
}

/* Descriptor n is buffer n for good: only lengths ever change. */
static void fill_descriptors(struct virtio_net *net)
{
    for (uint16_t i = 0; i < VIRTIO_QUEUE_SIZE; i++) {
        net->receive_queue.descriptors[i] = (struct virtio_descriptor){
            .address = (uintptr_t)&net->received[i].header,
            .bytes = VIRTIO_NET_HEADER_BYTES + ETHERNET_FRAME_BYTES_MAX,
            .flags = VIRTIO_DESCRIPTOR_WRITE,
        };
        net->send_queue.descriptors[i].address = (uintptr_t)&net->sent[i].header;
        virtio_queue_offer(&net->receive_queue, i);
    }
    /* Sent buffers are taken back when one is wanted; to be woken for each would be for nothing. */
    net->send_queue.available.flags = VIRTIO_AVAILABLE_NO_INTERRUPT;
}

bool virtio_net_start(struct virtio_net *net)
{
    if (!virtio_find(VIRTIO_NET, FEATURE_MAC, &net->device))
        return false;
    read_mac(net);
    fill_descriptors(net);
    if (!virtio_queue_start(&net->device, RECEIVE_QUEUE, &net->receive_queue) ||
        !virtio_queue_start(&net->device, SEND_QUEUE, &net->send_queue))
        return false;
    plic_attach(net->device.irq, virtio_interrupt, &net->device);
    virtio_ready(&net->device);
    virtio_notify(&net->device, RECEIVE_QUEUE);
    return true;
}

void virtio_net_wait(const struct virtio_net *net) { virtio_queue_wait(&net->receive_queue); }

bool virtio_net_receive(struct virtio_net *net, struct virtio_net_frame *frame)
{
    struct virtio_used_element used;
    if (!virtio_queue_take(&net->receive_queue, &used))
        return false;
    size_t bytes = used.bytes > VIRTIO_NET_HEADER_BYTES ? used.bytes - VIRTIO_NET_HEADER_BYTES : 0;
    if (bytes > ETHERNET_FRAME_BYTES_MAX)
        bytes = ETHERNET_FRAME_BYTES_MAX;
    frame->buffer = (uint16_t)used.descriptor;
    frame->bytes = (struct span){.at = net->received[used.descriptor].frame, .bytes = bytes};
    return true;
}

void virtio_net_release(struct virtio_net *net, const struct virtio_net_frame *frame)
{
    virtio_queue_offer(&net->receive_queue, frame->buffer);
    virtio_notify(&net->device, RECEIVE_QUEUE);
}

/* The lowest buffer that is the driver's, VIRTIO_QUEUE_SIZE if all are the device's. Lowest first keeps the pages written
 * few. */
static uint16_t free_buffer(const struct virtio_net *net)
{
    uint16_t buffer = 0;
    while (buffer < VIRTIO_QUEUE_SIZE && (net->sending >> buffer & 1) != 0)
        buffer += 1;
    return buffer;
}

uint8_t *virtio_net_send_buffer(struct virtio_net *net)
{
    struct virtio_used_element used;
    while (virtio_queue_take(&net->send_queue, &used))
        net->sending &= ~(1u << used.descriptor);
    const uint16_t buffer = free_buffer(net);
    return buffer == VIRTIO_QUEUE_SIZE ? NULL : net->sent[buffer].frame;
}

void virtio_net_send(struct virtio_net *net, size_t bytes)
{
    const uint16_t buffer = free_buffer(net);
    if (buffer == VIRTIO_QUEUE_SIZE || bytes > ETHERNET_FRAME_BYTES_MAX)
        return;
    net->send_queue.descriptors[buffer].bytes = (uint32_t)(VIRTIO_NET_HEADER_BYTES + bytes);
    net->sending |= 1u << buffer;
    virtio_queue_offer(&net->send_queue, buffer);
    virtio_notify(&net->device, SEND_QUEUE);
}
