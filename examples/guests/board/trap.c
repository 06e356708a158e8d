#include "trap.h"

#include <stddef.h>

#include "cpu.h"
#include "finisher.h"
#include "plic.h"
#include "text.h"
#include "uart.h"

#define CAUSE_INTERRUPT (1ull << 63)
#define CAUSE_TIMER (CAUSE_INTERRUPT | 7u)
#define CAUSE_EXTERNAL (CAUSE_INTERRUPT | 11u)

static void (*timer_handler)(void);

void trap_attach_timer(void (*handler)(void))
{
    timer_handler = handler;
    cpu_interrupts_enable(CPU_MIE_TIMER);
}

static _Noreturn void give_up(uint64_t mcause, uint64_t mepc, uint64_t mtval)
{
    char room[160];
    struct text line = text_in(room, sizeof room);
    text_add(&line, "unexpected trap: mcause=");
    text_add_hex(&line, mcause);
    text_add(&line, " mepc=");
    text_add_hex(&line, mepc);
    text_add(&line, " mtval=");
    text_add_hex(&line, mtval);
    text_add(&line, "\n");
    uart_write(line.at, line.bytes);
    finisher_end(TRAP_EXIT_CODE);
}

void trap_handle(uint64_t mcause, uint64_t mepc, uint64_t mtval)
{
    if (mcause == CAUSE_EXTERNAL)
        plic_handle();
    else if (mcause == CAUSE_TIMER && timer_handler != NULL)
        timer_handler();
    else
        give_up(mcause, mepc, mtval);
}
