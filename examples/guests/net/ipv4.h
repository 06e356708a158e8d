/* ipv4: the Internet header. Whole packets only: fragments are dropped, options are stepped over.
 *
 * Source: RFC 791 (format, checksum), RFC 1122 section 3.2.1 (what to drop in silence), RFC 6864 (the identification
 * of a packet that is never fragmented says nothing: 0).
 */
#ifndef IPV4_H
#define IPV4_H

#include <stdbool.h>

#include "bytes.h"

#define IPV4_HEADER_BYTES 20u /* without options: all that is written here */

#define IPV4_PROTOCOL_ICMP 1u
#define IPV4_PROTOCOL_UDP 17u

#define IPV4_ADDRESS(a, b, c, d) ((uint32_t)(a) << 24 | (uint32_t)(b) << 16 | (uint32_t)(c) << 8 | (uint32_t)(d))

struct ipv4_packet {
    uint32_t source;
    uint32_t destination;
    uint8_t protocol;
    struct span payload;
};

/* Takes a packet apart. Returns false if it must be dropped: not version 4, a length that contradicts itself or the
 * frame, a wrong checksum, a fragment, or a source that is no single host. The payload points into `bytes`, without
 * padding. */
bool ipv4_parse(struct span bytes, struct ipv4_packet *packet);

/* Writes a header of IPV4_HEADER_BYTES at `at` for packet.payload.bytes that follow; packet.payload.at is not used. */
void ipv4_write(uint8_t *at, const struct ipv4_packet *packet);

/* The start of a checksum over the pseudo header that UDP puts before itself (RFC 768). */
uint32_t ipv4_pseudo_sum(const struct ipv4_packet *packet);

#endif
