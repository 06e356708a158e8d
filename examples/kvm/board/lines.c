/* Interrupt lines without an interrupt controller: a program sleeps by a port, and looks at the lines when it wakes. */
#include <stddef.h>

#include "../../guests/board/board.h"
#include "../../guests/board/cpu.h"
#include "../../guests/board/plic.h"
#include "port.h"

static struct {
    plic_handler handler;
    void *device;
} attached[PLIC_IRQ_COUNT];

void plic_attach(uint32_t irq, plic_handler handler, void *device)
{
    attached[irq].handler = handler;
    attached[irq].device = device;
}

void plic_handle(void)
{
    const uint32_t lines = port_read32(BOARD_WAIT);
    for (uint32_t irq = 0; irq < PLIC_IRQ_COUNT; irq++) {
        if ((lines >> irq & 1) != 0 && attached[irq].handler != NULL)
            attached[irq].handler(attached[irq].device);
    }
}

void cpu_sleep_until_interrupt(void)
{
    port_write32(BOARD_WAIT, 0);
    plic_handle();
}
