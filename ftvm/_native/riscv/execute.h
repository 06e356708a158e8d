/* execute: runs instructions. Four interpreters over the same operations (operations.inc): one that keeps decoded
 * code and jumps from handler to handler; the same twice more, one that counts and traces, one that marks writes; and
 * one that decodes each instruction every time, the reference for all, which does what it is asked to. */
#ifndef FTVM_RISCV_EXECUTE_H
#define FTVM_RISCV_EXECUTE_H

#include "machine.h"

/* Runs until hart->retired == until, which lies ahead, or until something happened that the caller has to look at: a
 * trap, a write to a csr, a device access, WFI, a hit (hooks.h), the end. Never goes beyond. */
void riscv_execute_cached(ftvm_riscv *machine, uint64_t until);
void riscv_execute_counted(ftvm_riscv *machine, uint64_t until);
void riscv_execute_marked(ftvm_riscv *machine, uint64_t until);
void riscv_execute_plain(ftvm_riscv *machine, uint64_t until);

/* The bits of the instruction at `pc`, as mtval wants them of an illegal one; sets hart->pc. */
uint64_t riscv_execute_raw(ftvm_riscv *machine, uint64_t pc);

/* For CSR operations: does it, with hart->retired exact. Returns false if it is illegal; nothing has happened then. */
bool riscv_execute_csr(ftvm_riscv *machine, const riscv_operation *operation);

/* For WFI and MRET: likewise. */
bool riscv_execute_wfi(ftvm_riscv *machine);
bool riscv_execute_mret(ftvm_riscv *machine);

#endif
