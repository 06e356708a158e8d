/* state: all of riscv_core to bytes and back; the layout is versioned, little-endian and of fixed length. */
#ifndef FTVM_RISCV_STATE_H
#define FTVM_RISCV_STATE_H

#include "machine.h"

/* Returns the length; writes at most `capacity` bytes of it. */
size_t riscv_state_save(const ftvm_riscv *machine, uint8_t *state, size_t capacity);

/* Fills *core, which starts as a copy of the machine's. Returns NULL, or what is wrong: *core is then to be thrown
 * away. */
const char *riscv_state_load(const ftvm_riscv *machine, riscv_core *core, const uint8_t *state, size_t bytes);

#endif
