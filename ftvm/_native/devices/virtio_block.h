/* virtio_block: a disk that lies in memory, and so is state: protected page by page like RAM. Virtio 1.2, section 5.2.
 *
 * A request is served when the queue is notified, as long as that has moved less than a budget: what one access does
 * must end soon, as nobody can stop the machine in between. What is left in the queue is served by the same budget each
 * time that the machine says so, which it does until nothing is left. The rings alone tell what is left: there is no
 * other state. */
#ifndef FTVM_DEVICES_VIRTIO_BLOCK_H
#define FTVM_DEVICES_VIRTIO_BLOCK_H

#include "virtio.h"

#define DEVICE_BLOCK_BUDGET_BYTES (UINT64_C(1) << 20) /* no request is begun once so much was moved */
#define DEVICE_BLOCK_REQUEST_BYTES (UINT64_C(1) << 20) /* a longer one is answered with an error */

extern const device_virtio_type device_virtio_block;

/* Tells whether requests are left in the queue. */
bool device_virtio_block_is_behind(const device_board *board, const device_virtio *virtio);

/* Serves what is left, by the budget. Returns whether it did anything. */
bool device_virtio_block_serve(device_board *board, device_virtio *virtio);

#endif
