#include "ipv4.h"

#include "checksum.h"

/* Offsets in the header. */
#define AT_VERSION 0u /* and the header's length in words of 4 bytes */
#define AT_SERVICE 1u
#define AT_TOTAL_BYTES 2u
#define AT_IDENTIFICATION 4u
#define AT_FRAGMENT 6u
#define AT_TIME_TO_LIVE 8u
#define AT_PROTOCOL 9u
#define AT_CHECKSUM 10u
#define AT_SOURCE 12u
#define AT_DESTINATION 16u

#define FRAGMENT_NEVER 0x4000u    /* "don't fragment" */
#define FRAGMENT_IS_ONE 0x3fffu   /* "more fragments", or an offset */
#define TIME_TO_LIVE 64u          /* RFC 1700 */
#define MULTICAST_FIRST 0xe0000000u /* 224.0.0.0: multicast, reserved and broadcast addresses begin here */

bool ipv4_parse(struct span bytes, struct ipv4_packet *packet)
{
    if (bytes.bytes < IPV4_HEADER_BYTES || bytes.at[AT_VERSION] >> 4 != 4)
        return false;
    const size_t header_bytes = 4u * (bytes.at[AT_VERSION] & 0xfu);
    const size_t total_bytes = be16_get(bytes.at + AT_TOTAL_BYTES);
    if (header_bytes < IPV4_HEADER_BYTES || total_bytes < header_bytes || total_bytes > bytes.bytes)
        return false;
    if (checksum_finish(checksum_add(0, (struct span){.at = bytes.at, .bytes = header_bytes})) != 0)
        return false;
    if ((be16_get(bytes.at + AT_FRAGMENT) & FRAGMENT_IS_ONE) != 0)
        return false;

    packet->source = be32_get(bytes.at + AT_SOURCE);
    packet->destination = be32_get(bytes.at + AT_DESTINATION);
    packet->protocol = bytes.at[AT_PROTOCOL];
    packet->payload = (struct span){.at = bytes.at + header_bytes, .bytes = total_bytes - header_bytes};
    return packet->source != 0 && packet->source < MULTICAST_FIRST;
}

void ipv4_write(uint8_t *at, const struct ipv4_packet *packet)
{
    at[AT_VERSION] = 4u << 4 | IPV4_HEADER_BYTES / 4;
    at[AT_SERVICE] = 0;
    be16_put(at + AT_TOTAL_BYTES, (uint16_t)(IPV4_HEADER_BYTES + packet->payload.bytes));
    be16_put(at + AT_IDENTIFICATION, 0);
    be16_put(at + AT_FRAGMENT, FRAGMENT_NEVER);
    at[AT_TIME_TO_LIVE] = TIME_TO_LIVE;
    at[AT_PROTOCOL] = packet->protocol;
    be16_put(at + AT_CHECKSUM, 0);
    be32_put(at + AT_SOURCE, packet->source);
    be32_put(at + AT_DESTINATION, packet->destination);
    const struct span header = {.at = at, .bytes = IPV4_HEADER_BYTES};
    be16_put(at + AT_CHECKSUM, checksum_finish(checksum_add(0, header)));
}

uint32_t ipv4_pseudo_sum(const struct ipv4_packet *packet)
{
    uint8_t header[12] = {0};
    be32_put(header, packet->source);
    be32_put(header + 4, packet->destination);
    header[9] = packet->protocol;
    be16_put(header + 10, (uint16_t)packet->payload.bytes);
    return checksum_add(0, (struct span){.at = header, .bytes = sizeof header});
}
