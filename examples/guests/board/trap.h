/* trap: what happens when the hart leaves its path. Device interrupts go to the PLIC, the timer to one handler; an
 * exception is a bug in the program: it is told on the console and ends the run.
 */
#ifndef TRAP_H
#define TRAP_H

#include <stdint.h>

#define TRAP_EXIT_CODE 99 /* what a run ends with after an exception */

/* Calls handler() on each timer interrupt from now on; it must move clint_wake_at() ahead. */
void trap_attach_timer(void (*handler)(void));

/* Called by start.S with the CSRs of the same names. */
void trap_handle(uint64_t mcause, uint64_t mepc, uint64_t mtval);

#endif
