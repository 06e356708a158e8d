/* virtio_block: a disk that lies in memory, and so is state: protected page by page like RAM. Virtio 1.2, section 5.2.
 *
 * A request is served at the instruction that notifies the queue, as long as that has moved less than a budget: what
 * one instruction does must end soon, as nobody can stop the machine in between. What is left in the queue is served
 * before each instruction whose retired count is a multiple of RISCV_BLOCK_TURN, by the same budget; until then WFI
 * does not wait, so that such an instruction comes. The rings alone tell what is left: there is no state of its own. */
#ifndef FTVM_RISCV_VIRTIO_BLOCK_H
#define FTVM_RISCV_VIRTIO_BLOCK_H

#include "virtio.h"

#define RISCV_BLOCK_TURN 16384 /* retired instructions: about 40 us */
#define RISCV_BLOCK_BUDGET_BYTES (UINT64_C(1) << 20) /* no request is begun once so much was moved */
#define RISCV_BLOCK_REQUEST_BYTES (UINT64_C(1) << 20) /* a longer one is answered with an error */

extern const riscv_virtio_type riscv_virtio_block;

/* Tells whether requests are left in the queue. */
bool riscv_virtio_block_is_behind(const ftvm_riscv *machine);

/* Serves what is left, by the budget. Returns whether it did anything. */
bool riscv_virtio_block_serve(ftvm_riscv *machine);

#endif
