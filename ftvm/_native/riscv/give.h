/* give: an input given to the machine whole, or not at all. */
#ifndef FTVM_RISCV_GIVE_H
#define FTVM_RISCV_GIVE_H

#include "machine.h"

enum { RISCV_CHANNEL_ENTROPY = 2 }; /* beside those of outputs */

/* Gives keys, a frame or random bytes. Returns false, and nothing has changed, unless the machine takes all of them. */
bool riscv_give(ftvm_riscv *machine, uint32_t channel, const uint8_t *payload, size_t bytes);

/* Lets time pass while the hart waits. Returns false, and none has passed, if there is not so much of it. */
bool riscv_give_time(ftvm_riscv *machine, uint64_t ticks);

#endif
