/* finisher: the test device at 0x00100000 by which a program ends the machine. It has no state. */
#ifndef FTVM_RISCV_FINISHER_H
#define FTVM_RISCV_FINISHER_H

#include "../riscv.h"

#include "../devices/device.h"

extern const device_ops riscv_finisher_ops;

/* Ends the machine: FTVM_RISCV_BY_..., and an exit code, 0 for success. What was pending on the console becomes an
 * output first. */
void riscv_finish(ftvm_riscv *machine, uint8_t ended_by, uint64_t code);

#endif
