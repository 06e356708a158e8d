/* plic: the interrupt controller of the devices. All sources get one priority; the lowest number goes first.
 *
 * Source: RISC-V Platform-Level Interrupt Controller specification 1.0; context 0 is hart 0 in machine mode.
 */
#ifndef PLIC_H
#define PLIC_H

#include <stdint.h>

#define PLIC_IRQ_COUNT 16u /* the board's devices use 1..10 */

typedef void (*plic_handler)(void *device);

/* Calls handler(device) on each interrupt `irq` from now on. irq: 1..PLIC_IRQ_COUNT-1. The handler runs with interrupts
 * off and must make the device take back its request, else it is called again at once, for ever. */
void plic_attach(uint32_t irq, plic_handler handler, void *device);

/* Serves every pending interrupt; called by the trap handler. */
void plic_handle(void);

#endif
