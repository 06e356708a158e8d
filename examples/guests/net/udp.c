#include "udp.h"

#include "checksum.h"

#define AT_SOURCE_PORT 0u
#define AT_DESTINATION_PORT 2u
#define AT_BYTES 4u
#define AT_CHECKSUM 6u

bool udp_parse(const struct ipv4_packet *packet, struct udp_datagram *datagram)
{
    if (packet->payload.bytes < UDP_HEADER_BYTES)
        return false;
    const uint8_t *at = packet->payload.at;
    const size_t bytes = be16_get(at + AT_BYTES);
    if (bytes < UDP_HEADER_BYTES || bytes > packet->payload.bytes)
        return false;
    struct ipv4_packet exact = *packet; /* the IP payload may be longer than the datagram */
    exact.payload.bytes = bytes;
    const bool has_checksum = be16_get(at + AT_CHECKSUM) != 0;
    if (has_checksum && checksum_finish(checksum_add(ipv4_pseudo_sum(&exact), exact.payload)) != 0)
        return false;

    datagram->source_port = be16_get(at + AT_SOURCE_PORT);
    datagram->destination_port = be16_get(at + AT_DESTINATION_PORT);
    datagram->payload = span_after(exact.payload, UDP_HEADER_BYTES);
    return datagram->source_port != 0;
}

void udp_write(uint8_t *at, const struct ipv4_packet *packet, uint16_t source_port, uint16_t destination_port)
{
    be16_put(at + AT_SOURCE_PORT, source_port);
    be16_put(at + AT_DESTINATION_PORT, destination_port);
    be16_put(at + AT_BYTES, (uint16_t)packet->payload.bytes);
    be16_put(at + AT_CHECKSUM, 0);
    const uint16_t checksum = checksum_finish(checksum_add(ipv4_pseudo_sum(packet), packet->payload));
    be16_put(at + AT_CHECKSUM, checksum == 0 ? 0xffff : checksum); /* 0 would say "no checksum" */
}
