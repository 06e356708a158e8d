/* virtio_entropy: the random number source. Its bytes are an input: it waits until they are given. Virtio 1.2, section
 * 5.4. */
#ifndef FTVM_RISCV_VIRTIO_ENTROPY_H
#define FTVM_RISCV_VIRTIO_ENTROPY_H

#include "virtio.h"

extern const riscv_virtio_type riscv_virtio_entropy;

/* How many bytes it waits for, and giving it up to `count`; see ftvm_riscv_receive_entropy. */
size_t riscv_virtio_entropy_wanted(const ftvm_riscv *machine);
size_t riscv_virtio_entropy_receive(ftvm_riscv *machine, const uint8_t *bytes, size_t count);

#endif
