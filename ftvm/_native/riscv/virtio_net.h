/* virtio_net: the network device. Queue 0 receives, queue 1 transmits; no offloads. Virtio 1.2, section 5.1. */
#ifndef FTVM_RISCV_VIRTIO_NET_H
#define FTVM_RISCV_VIRTIO_NET_H

#include "virtio.h"

extern const riscv_virtio_type riscv_virtio_net;

/* Gives it a frame from outside; see ftvm_riscv_receive_frame. */
int riscv_virtio_net_receive(ftvm_riscv *machine, const uint8_t *frame, size_t bytes);

#endif
