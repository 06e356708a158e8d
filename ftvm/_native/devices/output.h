/* output: what the guest said and nobody took yet, in order over all channels.
 *
 * Each output is a little-endian u32 channel, a u32 length, and the payload, padded to a multiple of 8 bytes. */
#ifndef FTVM_DEVICES_OUTPUT_H
#define FTVM_DEVICES_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEVICE_OUTPUT_HEADER 8
#define DEVICE_OUTPUT_BYTES (1 << 20)
#define DEVICE_FRAME_BYTES_MAX 1522 /* an Ethernet frame with a VLAN tag, without its checksum */

/* The most that one access can add: a notified transmit queue full of the longest frames, and a flushed line. */
#define DEVICE_OUTPUT_BURST (256 * (DEVICE_FRAME_BYTES_MAX + 16) + 256)

enum { /* channels */
    DEVICE_CHANNEL_CONSOLE = 0,
    DEVICE_CHANNEL_NET = 1,
};

typedef struct {
    size_t length;
    size_t count;
    uint8_t bytes[DEVICE_OUTPUT_BYTES];
} device_output;

/* Adds an output. There is room: a machine stands still while a burst would not fit. */
void device_output_add(device_output *output, uint32_t channel, const uint8_t *payload, size_t bytes);

/* Whether the next access might find no room. */
bool device_output_is_tight(const device_output *output);

/* Forgets all outputs. */
void device_output_clear(device_output *output);

#endif
