/* timer: a steady beat, kept by timer interrupts. The hart sleeps in between.
 *
 * Beats are never lost: after a time in which none could be served they are made up, one interrupt each, so a count of
 * beats is a count of time.
 */
#ifndef TIMER_H
#define TIMER_H

#include <stdint.h>

/* Beats every `period_ticks` (> 0, in BOARD_TICKS_PER_SECOND) from now on. */
void timer_start(uint64_t period_ticks);

/* Sleeps until `count` beats have come since the start. Call with interrupts off. */
void timer_wait_for(uint64_t count);

/* How many ticks behind its time the latest beat was served, at most so far. */
uint64_t timer_ticks_late_max(void);

#endif
