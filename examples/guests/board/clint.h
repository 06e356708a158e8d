/* clint: the timer of hart 0. mtime counts BOARD_TICKS_PER_SECOND; the interrupt is pending while mtime >= mtimecmp. */
#ifndef CLINT_H
#define CLINT_H

#include <stdint.h>

#include "board.h"

#ifdef BOARD_KVM
#include "cpu.h"

/* There is no timer on the machine under KVM: its time stamp counter serves as a clock. */
static inline uint64_t clint_now(void) { return cpu_retired(); }
#else
/* Ticks since power-on. Unlike retired instructions it goes on while the hart sleeps. */
static inline uint64_t clint_now(void) { return mmio_read64(BOARD_MTIME); }

/* Asks for a timer interrupt once clint_now() >= `ticks`; also takes back a pending one if `ticks` lies ahead. */
static inline void clint_wake_at(uint64_t ticks) { mmio_write64(BOARD_MTIMECMP, ticks); }
#endif

#endif
