/* virtio_block: a disk that lies in memory, and so is state: protected page by page like RAM. Virtio 1.2, section 5.2.
 *
 * A request is served at the instruction that notifies the queue. */
#ifndef FTVM_RISCV_VIRTIO_BLOCK_H
#define FTVM_RISCV_VIRTIO_BLOCK_H

#include "virtio.h"

extern const riscv_virtio_type riscv_virtio_block;

#endif
