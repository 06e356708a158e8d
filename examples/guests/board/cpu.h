/* cpu: the few instructions that C has no word for. Hart 0, machine mode; one hart, so nothing here is a lock.
 *
 * Source: the RISC-V instruction set manual, volume II (privileged), chapters on machine-level CSRs and WFI.
 */
#ifndef CPU_H
#define CPU_H

#include <stdint.h>

#ifdef BOARD_KVM /* the machine under KVM (../../kvm): privilege level 3, no interrupts, a port to sleep by */

/* Ticks of the time stamp counter: what a guest there has that never goes back. */
static inline uint64_t cpu_retired(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* Sleeps until a line is high, and has its device served; see ../../kvm/board/lines.c. */
void cpu_sleep_until_interrupt(void);

static inline void cpu_interrupts_off(void) {}
static inline void cpu_fence(void) { __asm__ volatile("mfence" ::: "memory"); }

#else

#define CPU_MSTATUS_MIE (1u << 3) /* interrupts are taken */
#define CPU_MIE_TIMER (1u << 7)
#define CPU_MIE_EXTERNAL (1u << 11)

/* Retired instructions since power-on: the guest's own measure of its life, the same on every host that runs it. */
static inline uint64_t cpu_retired(void)
{
    uint64_t count;
    __asm__ volatile("csrr %0, minstret" : "=r"(count));
    return count;
}

static inline void cpu_interrupts_on(void) { __asm__ volatile("csrsi mstatus, %0" ::"i"(CPU_MSTATUS_MIE) : "memory"); }
static inline void cpu_interrupts_off(void) { __asm__ volatile("csrci mstatus, %0" ::"i"(CPU_MSTATUS_MIE) : "memory"); }

/* Lets the interrupts of `sources` (CPU_MIE_...) through once interrupts are on. */
static inline void cpu_interrupts_enable(uint64_t sources)
{
    __asm__ volatile("csrs mie, %0" ::"r"(sources) : "memory");
}

/* Sleeps until an enabled interrupt is pending and lets it be taken. Call with interrupts off.
 *
 * Why off: "is there work?" and "sleep" must be one step. With interrupts on, one could come between the two; its work
 * would lie there while the hart sleeps. WFI wakes for a pending interrupt even when interrupts are off, and
 * the handler runs in the gap between on and off. */
static inline void cpu_sleep_until_interrupt(void)
{
    __asm__ volatile("wfi" ::: "memory");
    cpu_interrupts_on();
    cpu_interrupts_off();
}

/* Orders all that was read and written before, memory and devices, ahead of all that comes after. */
static inline void cpu_fence(void) { __asm__ volatile("fence iorw, iorw" ::: "memory"); }

#endif
#endif
