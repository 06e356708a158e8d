/* csr: the control and status registers, by number. */
#ifndef FTVM_RISCV_CSR_H
#define FTVM_RISCV_CSR_H

#include "machine.h"

/* Reads csr `number` as seen by the instruction at position `retired`. Returns false if it does not exist. */
bool riscv_csr_read(const ftvm_riscv *machine, unsigned number, uint64_t *value);

/* Writes csr `number`, changing only the bits that exist. The caller has read it before, so it exists. */
void riscv_csr_write(ftvm_riscv *machine, unsigned number, uint64_t value);

/* Tells whether the hart's privilege, and mcounteren, let it use csr `number`, for writing if `is_write`. */
bool riscv_csr_may(const ftvm_riscv *machine, unsigned number, bool is_write);

/* Tells whether all control registers hold only bits that a program could have written. */
bool riscv_csr_are_legal(const riscv_hart *hart);

/* The interrupts that are pending now: mip. */
uint64_t riscv_csr_mip(const ftvm_riscv *machine);

#endif
