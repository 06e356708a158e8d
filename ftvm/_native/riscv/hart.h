/* hart: the processor's architectural state, its traps and interrupts, and physical memory protection. */
#ifndef FTVM_RISCV_HART_H
#define FTVM_RISCV_HART_H

#include "../riscv.h"

#include <stdbool.h>

enum { RISCV_USER = 0, RISCV_MACHINE = 3 }; /* privilege */

enum { /* mcause of exceptions */
    RISCV_FETCH_ACCESS = 1,
    RISCV_ILLEGAL = 2,
    RISCV_BREAKPOINT = 3,
    RISCV_LOAD_MISALIGNED = 4,
    RISCV_LOAD_ACCESS = 5,
    RISCV_STORE_MISALIGNED = 6,
    RISCV_STORE_ACCESS = 7,
    RISCV_ECALL_USER = 8,
    RISCV_ECALL_MACHINE = 11,
};

/* Interrupts, as bits of mip and mie. */
#define RISCV_MSI (UINT64_C(1) << 3)
#define RISCV_MTI (UINT64_C(1) << 7)
#define RISCV_MEI (UINT64_C(1) << 11)
#define RISCV_INTERRUPTS (RISCV_MSI | RISCV_MTI | RISCV_MEI)

#define RISCV_MSTATUS_MIE (UINT64_C(1) << 3)
#define RISCV_MSTATUS_MPIE (UINT64_C(1) << 7)
#define RISCV_MSTATUS_MPP (UINT64_C(3) << 11)
#define RISCV_MSTATUS_MPRV (UINT64_C(1) << 17)
#define RISCV_MSTATUS_TW (UINT64_C(1) << 21)
#define RISCV_MSTATUS_UXL (UINT64_C(2) << 32) /* read-only: user mode is 64 bits wide */

#define RISCV_X_DISCARD 32 /* where instructions that write x0 put their result, so that no write needs a test */

typedef enum { RISCV_READ = 1, RISCV_WRITE = 2, RISCV_EXECUTE = 4 } riscv_access; /* as in pmpcfg */

typedef struct {
    uint64_t x[33];
    uint64_t pc;
    uint64_t retired; /* instructions begun, one that traps included */
    uint64_t idled;   /* ticks spent waiting */
    uint8_t privilege;
    bool is_waiting; /* WFI retired, and nothing has woken the hart yet */
    bool has_reservation;
    uint64_t reservation;
    uint64_t mstatus;
    uint64_t mtvec;
    uint64_t mie;
    uint64_t mscratch;
    uint64_t mepc;
    uint64_t mcause;
    uint64_t mtval;
    uint64_t mcounteren;
    uint64_t mcountinhibit;
    uint64_t mcycle;   /* what to add to `retired`; the value itself while inhibited */
    uint64_t minstret; /* likewise; exceptions lower it, as they do not retire */
    uint64_t pmpcfg;
    uint64_t pmpaddr;
} riscv_hart;

/* Takes an exception of the instruction at hart->pc. */
void riscv_hart_trap(riscv_hart *hart, uint64_t cause, uint64_t value);

/* Takes the most urgent of the interrupts `pending` if it is enabled. Returns whether one was taken. */
bool riscv_hart_interrupt(riscv_hart *hart, uint64_t pending);

/* Returns from a trap: MRET, which the caller has found to be allowed. */
void riscv_hart_return(riscv_hart *hart);

/* The privilege that loads and stores have now: MPRV lends them MPP's. */
unsigned riscv_hart_data_privilege(const riscv_hart *hart);

/* Tells whether physical memory protection lets `privilege` do `access` to all of [address, address + bytes). */
bool riscv_hart_may(const riscv_hart *hart, unsigned privilege, riscv_access access, uint64_t address, uint64_t bytes);

#endif
