/* virtio_entropy: the random number source. Its bytes are an input: it waits until they are given. Virtio 1.2, section
 * 5.4. */
#ifndef FTVM_DEVICES_VIRTIO_ENTROPY_H
#define FTVM_DEVICES_VIRTIO_ENTROPY_H

#include "virtio.h"

extern const device_virtio_type device_virtio_entropy;

/* How many bytes it waits for, and giving it up to `count`: returns how many it took. */
size_t device_virtio_entropy_wanted(const device_board *board, const device_virtio *virtio);
size_t device_virtio_entropy_receive(device_board *board, device_virtio *virtio, const uint8_t *bytes, size_t count);

#endif
