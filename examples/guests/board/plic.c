#include "plic.h"

#include <stddef.h>

#include "board.h"
#include "cpu.h"

#define PLIC_PRIORITY (BOARD_PLIC + 0x000000u)  /* + 4 * irq; 0 means never */
#define PLIC_ENABLE (BOARD_PLIC + 0x002000u)    /* one bit per irq, context 0 */
#define PLIC_THRESHOLD (BOARD_PLIC + 0x200000u) /* only priorities above it interrupt */
#define PLIC_CLAIM (BOARD_PLIC + 0x200004u)     /* read: which irq is mine now; write it back: served */

static struct {
    plic_handler handler;
    void *device;
} attached[PLIC_IRQ_COUNT];

void plic_attach(uint32_t irq, plic_handler handler, void *device)
{
    attached[irq].handler = handler;
    attached[irq].device = device;
    mmio_write32(PLIC_PRIORITY + 4 * irq, 1);
    mmio_write32(PLIC_THRESHOLD, 0);
    mmio_write32(PLIC_ENABLE, mmio_read32(PLIC_ENABLE) | 1u << irq);
    cpu_interrupts_enable(CPU_MIE_EXTERNAL);
}

void plic_handle(void)
{
    for (;;) {
        const uint32_t irq = mmio_read32(PLIC_CLAIM);
        if (irq == 0) /* nothing pending any more */
            return;
        if (irq < PLIC_IRQ_COUNT && attached[irq].handler != NULL)
            attached[irq].handler(attached[irq].device);
        mmio_write32(PLIC_CLAIM, irq);
    }
}
