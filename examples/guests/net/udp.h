/* udp: ports and a checksum around a payload.
 *
 * Source: RFC 768; RFC 1122 section 4.1.3.4 (a sent checksum of 0 means: no checksum).
 */
#ifndef UDP_H
#define UDP_H

#include <stdbool.h>

#include "bytes.h"
#include "ipv4.h"

#define UDP_HEADER_BYTES 8u

struct udp_datagram {
    uint16_t source_port;
    uint16_t destination_port;
    struct span payload;
};

/* Takes the payload of `packet` apart. Returns false if it must be dropped: a length that contradicts the packet, a
 * wrong checksum, or a source port of 0 (nowhere to answer to). */
bool udp_parse(const struct ipv4_packet *packet, struct udp_datagram *datagram);

/* Writes a header of UDP_HEADER_BYTES before a payload that already stands behind it, checksum included.
 *
 * packet  addresses and protocol; its payload is the header at packet->payload.at and what follows it */
void udp_write(uint8_t *at, const struct ipv4_packet *packet, uint16_t source_port, uint16_t destination_port);

#endif
