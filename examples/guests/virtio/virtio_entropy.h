/* virtio_entropy: random bytes from the host.
 *
 * Source: VIRTIO 1.2, section 5.4; the device has one queue and no features.
 */
#ifndef VIRTIO_ENTROPY_H
#define VIRTIO_ENTROPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio.h"

struct virtio_entropy {
    struct virtio_device device;
    struct virtio_queue queue;
};

/* Finds the device and starts it. *entropy is zero. Returns false without a device. */
bool virtio_entropy_start(struct virtio_entropy *entropy);

/* Fills `bytes` bytes, however many pieces the device gives them in; asleep while it works. */
void virtio_entropy_fill(struct virtio_entropy *entropy, uint8_t *at, size_t bytes);

#endif
