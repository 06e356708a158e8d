#include "timer.h"

#include "clint.h"
#include "cpu.h"
#include "trap.h"

static struct {
    uint64_t period;
    uint64_t next; /* when the next beat is due */
    volatile uint64_t count;
    uint64_t late_max;
} timer;

static void beat(void)
{
    const uint64_t late = clint_now() - timer.next;
    if (late > timer.late_max)
        timer.late_max = late;
    timer.count += 1;
    timer.next += timer.period;
    clint_wake_at(timer.next); /* in the past if beats are owed: the interrupt stays pending */
}

void timer_start(uint64_t period_ticks)
{
    timer.period = period_ticks;
    timer.next = clint_now() + period_ticks;
    timer.count = 0;
    clint_wake_at(timer.next);
    trap_attach_timer(beat);
}

void timer_wait_for(uint64_t count)
{
    while (timer.count < count)
        cpu_sleep_until_interrupt();
}

uint64_t timer_ticks_late_max(void) { return timer.late_max; }
