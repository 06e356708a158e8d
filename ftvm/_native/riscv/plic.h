/* plic: the platform interrupt controller at 0x0c000000, sources 1 to 31, one context: hart 0 in machine mode.
 *
 * Sources are level triggered. A claimed source is gated until it is completed; if its line is still high then, it is
 * pending again. */
#ifndef FTVM_RISCV_PLIC_H
#define FTVM_RISCV_PLIC_H

#include "../devices/device.h"

#define RISCV_PLIC_SOURCES 32 /* source 0 does not exist */

typedef struct {
    uint8_t priority[RISCV_PLIC_SOURCES]; /* 0 (never) to 7 */
    uint8_t threshold;
    uint32_t lines; /* one bit a source */
    uint32_t pending;
    uint32_t claimed;
    uint32_t enabled;
} riscv_plic;

extern const device_ops riscv_plic_ops;

/* Tells it the level of a source's line. */
void riscv_plic_set_line(riscv_plic *plic, unsigned source, bool is_high);

/* Whether it asks the hart for an interrupt. */
bool riscv_plic_is_pending(const riscv_plic *plic);

#endif
