/* virtio_net: the network device. Queue 0 receives, queue 1 transmits; no offloads. Virtio 1.2, section 5.1. */
#ifndef FTVM_DEVICES_VIRTIO_NET_H
#define FTVM_DEVICES_VIRTIO_NET_H

#include "virtio.h"

extern const device_virtio_type device_virtio_net;

/* Gives it a frame from outside. Returns 1 if it took the frame, 0 if it has no buffer ready, -1 if the frame is longer
 * than DEVICE_FRAME_BYTES_MAX. */
int device_virtio_net_receive(device_board *board, device_virtio *virtio, const uint8_t *frame, size_t bytes);

#endif
