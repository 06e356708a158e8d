/* virtio_net: sends and receives Ethernet frames.
 *
 * Frames received stay in the buffer that the device wrote until they are released; frames to send are built in place
 * in a buffer of the driver's. Nothing is copied here, and no buffer is allocated after start.
 *
 * Source: VIRTIO 1.2, section 5.1; features: VERSION_1 and MAC, no offloads, so a frame is what goes over the wire.
 */
#ifndef VIRTIO_NET_H
#define VIRTIO_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../net/bytes.h"
#include "../net/ethernet.h"
#include "virtio.h"

#define VIRTIO_NET_HEADER_BYTES 12u /* stands before each frame in both directions; all zero without offloads */

/* A frame and its header; two to a page, so a frame never spans two pages. */
struct virtio_net_buffer {
    _Alignas(2048) uint8_t header[VIRTIO_NET_HEADER_BYTES];
    uint8_t frame[ETHERNET_FRAME_BYTES_MAX];
};

struct virtio_net {
    struct virtio_device device;
    uint8_t mac[ETHERNET_ADDRESS_BYTES];
    uint32_t sending; /* bit n: send buffer n is the device's */
    struct virtio_queue receive_queue;
    struct virtio_queue send_queue;
    struct virtio_net_buffer received[VIRTIO_QUEUE_SIZE];
    struct virtio_net_buffer sent[VIRTIO_QUEUE_SIZE];
};

/* A frame that arrived: read `bytes`, then give it back with virtio_net_release. */
struct virtio_net_frame {
    struct span bytes;
    uint16_t buffer;
};

/* Finds the network device, starts it, lets it interrupt. *net is zero. Returns false without a device. */
bool virtio_net_start(struct virtio_net *net);

/* Sleeps until virtio_net_receive would find a frame. Call with interrupts off. */
void virtio_net_wait(const struct virtio_net *net);

/* Takes the next frame received. Returns false if no frame has come. */
bool virtio_net_receive(struct virtio_net *net, struct virtio_net_frame *frame);

/* Gives a received frame's buffer back to the device. */
void virtio_net_release(struct virtio_net *net, const struct virtio_net_frame *frame);

/* A free buffer of ETHERNET_FRAME_BYTES_MAX to build a frame in, or NULL while the device holds all of them. Asked
 * twice without a send between, it gives the same one. */
uint8_t *virtio_net_send_buffer(struct virtio_net *net);

/* Sends the first `bytes` of what virtio_net_send_buffer gave last. */
void virtio_net_send(struct virtio_net *net, size_t bytes);

#endif
