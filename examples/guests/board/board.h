/* board: where things are on the machine that these programs run on.
 *
 * The map is the part of QEMU's `virt` board that ftvm's built-in machine has too, so that one ELF file runs on both.
 * It is written down here and not read from the device tree: the tree is asked only for what a user may change (see
 * fdt.h).
 *
 * Source: the `virt` board's documentation, SiFive's CLINT and test finisher, the RISC-V PLIC specification 1.0.
 */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#ifdef BOARD_KVM /* the machine under KVM: ../../kvm */
#define BOARD_UART 0x3f8u            /* ns16550, a port */
#define BOARD_WAIT 0x600u            /* a port: sleep until an interrupt line is high; reading it tells which are */
#define BOARD_FINISHER 0x604u        /* a port: a write here ends the run */
#define BOARD_VIRTIO 0xd0000000u
#define BOARD_VIRTIO_STRIDE 0x1000u
#define BOARD_VIRTIO_SLOTS 8u
#define BOARD_VIRTIO_IRQ 1u
#define BOARD_UART_IRQ 4u
#define BOARD_MEMORY_BYTES_MIN (4u << 20)
#else
#define BOARD_FINISHER 0x00100000u   /* a write here ends the run */
#define BOARD_MTIMECMP 0x02004000u   /* hart 0: the timer interrupt is pending while mtime >= mtimecmp */
#define BOARD_MTIME 0x0200bff8u      /* counts BOARD_TICKS_PER_SECOND */
#define BOARD_PLIC 0x0c000000u       /* external interrupts, see plic.h */
#define BOARD_UART 0x10000000u       /* ns16550 */
#define BOARD_VIRTIO 0x10001000u     /* the first virtio-mmio slot */
#define BOARD_VIRTIO_STRIDE 0x1000u  /* from one slot to the next */
#define BOARD_VIRTIO_SLOTS 8u        /* slot n raises interrupt BOARD_VIRTIO_IRQ + n */
#define BOARD_VIRTIO_IRQ 1u
#define BOARD_UART_IRQ 10u
#define BOARD_TICKS_PER_SECOND 10000000u
#define BOARD_MEMORY 0x80000000u
#define BOARD_MEMORY_BYTES_MIN (16u << 20) /* what every program may count on */
#endif

/* Device registers are read and written exactly as often as the program says, hence volatile. */
static inline uint32_t mmio_read32(uintptr_t address) { return *(const volatile uint32_t *)address; }
static inline void mmio_write32(uintptr_t address, uint32_t value) { *(volatile uint32_t *)address = value; }
static inline uint8_t mmio_read8(uintptr_t address) { return *(const volatile uint8_t *)address; }
static inline void mmio_write8(uintptr_t address, uint8_t value) { *(volatile uint8_t *)address = value; }
static inline uint64_t mmio_read64(uintptr_t address) { return *(const volatile uint64_t *)address; }
static inline void mmio_write64(uintptr_t address, uint64_t value) { *(volatile uint64_t *)address = value; }

#endif
