/* ethernet: the frame: destination, source, type, payload.
 *
 * A frame shorter than 60 bytes is padded on a real wire; what a frame carries therefore says its own length, and
 * what follows is ignored. Frames sent through virtio-net are left short: padding is the business of who has a wire.
 *
 * Source: IEEE 802.3 clause 3 (frame), RFC 894 (IP over it).
 */
#ifndef ETHERNET_H
#define ETHERNET_H

#include <stdbool.h>
#include <string.h>

#include "bytes.h"

#define ETHERNET_ADDRESS_BYTES 6u
#define ETHERNET_HEADER_BYTES 14u
#define ETHERNET_PAYLOAD_BYTES_MAX 1500u
#define ETHERNET_FRAME_BYTES_MAX (ETHERNET_HEADER_BYTES + ETHERNET_PAYLOAD_BYTES_MAX)

#define ETHERNET_TYPE_IPV4 0x0800u
#define ETHERNET_TYPE_ARP 0x0806u

struct ethernet_frame {
    const uint8_t *destination;
    const uint8_t *source;
    uint16_t type;
    struct span payload;
};

/* Takes a frame apart. Returns false if it is too short or too long to be one; the views point into `bytes`. */
static inline bool ethernet_parse(struct span bytes, struct ethernet_frame *frame)
{
    if (bytes.bytes < ETHERNET_HEADER_BYTES || bytes.bytes > ETHERNET_FRAME_BYTES_MAX)
        return false;
    frame->destination = bytes.at;
    frame->source = bytes.at + ETHERNET_ADDRESS_BYTES;
    frame->type = be16_get(bytes.at + 2 * ETHERNET_ADDRESS_BYTES);
    frame->payload = span_after(bytes, ETHERNET_HEADER_BYTES);
    return true;
}

/* Writes a header of ETHERNET_HEADER_BYTES at `at`. */
static inline void ethernet_write(uint8_t *at, const uint8_t *destination, const uint8_t *source, uint16_t type)
{
    memcpy(at, destination, ETHERNET_ADDRESS_BYTES);
    memcpy(at + ETHERNET_ADDRESS_BYTES, source, ETHERNET_ADDRESS_BYTES);
    be16_put(at + 2 * ETHERNET_ADDRESS_BYTES, type);
}

/* Group addresses (broadcast and multicast) have the lowest bit of the first byte set. */
static inline bool ethernet_is_group(const uint8_t *address) { return (address[0] & 1) != 0; }

#endif
