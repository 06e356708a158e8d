/* virtio: what all virtio devices share: finding one on the virtio-mmio bus, agreeing on features, split virtqueues.
 *
 * A virtqueue is a ring in memory that driver and device both see. The driver offers buffers: it writes a descriptor
 * (address, length, who writes), puts its number into the available ring, moves that ring's index, and notifies. The
 * device uses a buffer and puts its number into the used ring. Indices only grow (mod 2^16); the slot is index mod
 * size.
 *
 * What a device says is not trusted: a number beyond the queue is dropped, a length beyond the buffer cut. A driver
 * here survives a broken device; it does not work with one.
 *
 * Source: Virtual I/O Device (VIRTIO) version 1.2, sections 2.7 (split virtqueues), 3.1 (initialization), 4.2 (MMIO).
 */
#ifndef VIRTIO_H
#define VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_QUEUE_SIZE 32u /* a power of two; every device here is asked for no more */

enum virtio_kind { VIRTIO_NET = 1, VIRTIO_BLOCK = 2, VIRTIO_ENTROPY = 4 };

#define VIRTIO_F_VERSION_1 (1ull << 32) /* the device follows the standard, not its drafts; required here */

struct virtio_descriptor {
    uint64_t address;
    uint32_t bytes;
    uint16_t flags;
    uint16_t next; /* the following part of the same buffer, if flags say so */
};
#define VIRTIO_DESCRIPTOR_NEXT 1u  /* goes on in `next` */
#define VIRTIO_DESCRIPTOR_WRITE 2u /* the device writes; else it reads */

struct virtio_available {
    uint16_t flags;
    volatile uint16_t index;
    uint16_t ring[VIRTIO_QUEUE_SIZE];
};
#define VIRTIO_AVAILABLE_NO_INTERRUPT 1u /* the driver looks by itself */

struct virtio_used_element {
    uint32_t descriptor; /* the first of the buffer's chain */
    uint32_t bytes;      /* written by the device */
};
struct virtio_used {
    uint16_t flags;
    volatile uint16_t index;
    struct virtio_used_element ring[VIRTIO_QUEUE_SIZE];
};

/* One queue. The device reads the first two members and writes the third; the fourth is the driver's own. */
struct virtio_queue {
    _Alignas(16) struct virtio_descriptor descriptors[VIRTIO_QUEUE_SIZE];
    _Alignas(4) struct virtio_available available;
    _Alignas(4) struct virtio_used used;
    uint16_t used_seen; /* how far the driver has read `used` */
};

struct virtio_device {
    uintptr_t base;    /* of its registers */
    uint32_t irq;      /* at the PLIC */
    uint64_t features; /* agreed on */
};

/* Finds the first device of `kind`, resets it, and agrees on `features` as far as it offers them.
 *
 * Returns whether there is one that speaks version 1; *device is set only then. Next come virtio_queue_start for
 * each queue, then virtio_ready. */
bool virtio_find(enum virtio_kind kind, uint64_t features, struct virtio_device *device);

/* Hands queue number `index` to the device. The queue is zero, or stays valid from then on. Returns whether the device
 * has such a queue of VIRTIO_QUEUE_SIZE. */
bool virtio_queue_start(const struct virtio_device *device, uint32_t index, struct virtio_queue *queue);

/* Tells the device that the driver is set up. */
void virtio_ready(const struct virtio_device *device);

/* Offers the buffer that starts at `descriptor` (already filled in) to the device. virtio_notify makes it look. */
void virtio_queue_offer(struct virtio_queue *queue, uint16_t descriptor);
void virtio_notify(const struct virtio_device *device, uint32_t index);

/* Whether the device has used a buffer that virtio_queue_take would return. */
bool virtio_queue_has_used(const struct virtio_queue *queue);

/* Sleeps until virtio_queue_has_used. Call with interrupts off. */
void virtio_queue_wait(const struct virtio_queue *queue);

/* Takes the next used buffer: its first descriptor and how many bytes the device wrote. Returns false if no
 * buffer was used. */
bool virtio_queue_take(struct virtio_queue *queue, struct virtio_used_element *used);

/* Makes the device take back its interrupt; what there is to do is seen in the queues. For plic_attach. */
void virtio_interrupt(void *device);

/* Reads the device's own configuration at `offset`. */
uint8_t virtio_config8(const struct virtio_device *device, uint32_t offset);
uint64_t virtio_config64(const struct virtio_device *device, uint32_t offset);

#endif
