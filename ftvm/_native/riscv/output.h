/* output: what the guest said since the last run, in order over all channels; the format is in riscv.h. */
#ifndef FTVM_RISCV_OUTPUT_H
#define FTVM_RISCV_OUTPUT_H

#include "../riscv.h"

#include <stdbool.h>

#define RISCV_OUTPUT_HEADER 8
#define RISCV_OUTPUT_BYTES (1 << 20)

/* The most that one instruction can add: a notified transmit queue full of the longest frames, and a flushed line. */
#define RISCV_OUTPUT_BURST (256 * (FTVM_RISCV_FRAME_BYTES_MAX + 16) + 256)

typedef struct {
    size_t length;
    size_t count;
    uint8_t bytes[RISCV_OUTPUT_BYTES];
} riscv_output;

/* Adds an output. There is room: a run ends while a burst still fits. */
void riscv_output_add(riscv_output *output, uint32_t channel, const uint8_t *payload, size_t bytes);

/* Whether the next instruction might find no room. */
bool riscv_output_is_tight(const riscv_output *output);

#endif
