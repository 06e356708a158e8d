/* virtio: the mmio transport, version 2, and split virtqueues. Virtio 1.2, sections 2.7 and 4.2.
 *
 * A device type says what it is and what a notified queue means. The transport keeps registers and queues. A driver
 * that breaks the rules (a descriptor outside RAM, a loop, an impossible index) gets DEVICE_NEEDS_RESET and a silent
 * device. */
#ifndef FTVM_DEVICES_VIRTIO_H
#define FTVM_DEVICES_VIRTIO_H

#include "device.h"

#define DEVICE_VIRTIO_QUEUES 2
#define DEVICE_VIRTQ_SIZE_MAX 256
#define DEVICE_VIRTIO_VERSION_1 (UINT64_C(1) << 32)

typedef struct {
    bool is_ready;
    uint16_t size;
    uint16_t next; /* index of the next chain to take from the available ring; also that of the used ring, as chains are
                      given back in the order in which they were taken */
    uint64_t descriptors;
    uint64_t available;
    uint64_t used;
} device_virtq;

typedef struct device_virtio_type device_virtio_type;

typedef struct {
    const device_virtio_type *type; /* not state: fixed when the machine is made */
    uint32_t device_features_select;
    uint32_t driver_features_select;
    uint64_t driver_features;
    uint32_t queue_select;
    uint32_t status;
    uint32_t interrupt;
    device_virtq queues[DEVICE_VIRTIO_QUEUES];
} device_virtio;

struct device_virtio_type {
    uint32_t device_id;
    uint32_t queue_count;
    uint64_t features;
    /* Serves queue `index` after the driver has notified it. */
    void (*notify)(device_board *board, device_virtio *virtio, unsigned index);
    /* Writes the configuration space, up to `capacity` bytes, and returns its length. */
    size_t (*config)(const device_board *board, uint8_t *bytes, size_t capacity);
};

typedef struct {
    uint64_t address;
    uint32_t bytes;
    bool is_writable; /* by the device */
} device_segment;

typedef struct {
    uint16_t head;
    unsigned count;
    size_t readable_bytes;
    size_t writable_bytes;
    device_segment segments[DEVICE_VIRTQ_SIZE_MAX];
} device_chain;

extern const device_ops device_virtio_ops;

/* A slot where no device is plugged in: it says so, as programs look through all eight slots of the board. */
extern const device_ops device_virtio_empty_ops;

typedef enum {
    DEVICE_CHAIN_NONE,   /* nothing is available, or the queue is not live */
    DEVICE_CHAIN_READY,  /* all its segments lie in RAM, readable ones first */
    DEVICE_CHAIN_BROKEN, /* the driver broke the rules */
} device_chain_found;

/* Looks at the next chain that the driver has made available, and changes nothing: hosts may look at any time, and how
 * often they do must not show. */
device_chain_found device_virtq_peek(const device_board *board, const device_virtio *virtio, unsigned index,
                                   device_chain *chain);

/* Tells whether the driver has made chains available that were not taken yet, or whether that cannot be told because
 * the queue is broken: whether device_virtq_take would find something. Changes nothing. */
bool device_virtq_is_behind(const device_board *board, const device_virtio *virtio, unsigned index);

/* The same as device_virtq_peek for a device that was just notified, which is a moment of the guest's: a broken queue
 * needs a reset from here. Returns whether a chain is ready. */
bool device_virtq_take(device_board *board, device_virtio *virtio, unsigned index, device_chain *chain);

/* Takes the chain that was looked at and gives it back as used, with `written` bytes in its writable part. */
void device_virtq_use(device_board *board, device_virtio *virtio, unsigned index, const device_chain *chain,
                     uint32_t written);

/* Copies from the readable, or to the writable part of a chain, from `skip` bytes into it on; stops at its end. Returns
 * how many bytes were copied. */
size_t device_chain_read(const device_board *board, const device_chain *chain, size_t skip, uint8_t *into,
                         size_t bytes);
size_t device_chain_write(device_board *board, const device_chain *chain, size_t skip, const uint8_t *from,
                          size_t bytes);

#endif
