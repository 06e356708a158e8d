#include "arp.h"

/* Offsets in the packet. */
#define AT_HARDWARE 0u
#define AT_PROTOCOL 2u
#define AT_SIZES 4u
#define AT_OPERATION 6u
#define AT_SENDER_MAC 8u
#define AT_SENDER_IP 14u
#define AT_TARGET_MAC 18u
#define AT_TARGET_IP 24u

#define HARDWARE_ETHERNET 1u
#define SIZES_ETHERNET_IPV4 0x0604u /* 6 bytes a hardware address, 4 a protocol address */
#define OPERATION_REQUEST 1u
#define OPERATION_REPLY 2u

static struct arp_neighbour *neighbour_of(struct arp *arp, uint32_t ip)
{
    for (size_t i = 0; i < ARP_NEIGHBOURS_MAX; i++)
        if (arp->neighbours[i].ip == ip)
            return &arp->neighbours[i];
    return NULL;
}

/* RFC 826: who is known is brought up to date by any packet; who is not is added only if the packet is meant for us. */
static void learn(struct arp *arp, uint32_t ip, const uint8_t *mac, bool is_for_us)
{
    if (ip == 0 || ip == arp->ip || ethernet_is_group(mac))
        return;
    struct arp_neighbour *place = neighbour_of(arp, ip);
    if (place == NULL) {
        if (!is_for_us)
            return;
        place = &arp->neighbours[arp->next];
        arp->next = (uint8_t)((arp->next + 1) % ARP_NEIGHBOURS_MAX);
    }
    place->ip = ip;
    memcpy(place->mac, mac, ETHERNET_ADDRESS_BYTES);
}

static void write_packet(const struct arp *arp, uint8_t *packet, uint16_t operation, const uint8_t *target_mac,
                         uint32_t target_ip)
{
    be16_put(packet + AT_HARDWARE, HARDWARE_ETHERNET);
    be16_put(packet + AT_PROTOCOL, ETHERNET_TYPE_IPV4);
    be16_put(packet + AT_SIZES, SIZES_ETHERNET_IPV4);
    be16_put(packet + AT_OPERATION, operation);
    memcpy(packet + AT_SENDER_MAC, arp->mac, ETHERNET_ADDRESS_BYTES);
    be32_put(packet + AT_SENDER_IP, arp->ip);
    memcpy(packet + AT_TARGET_MAC, target_mac, ETHERNET_ADDRESS_BYTES);
    be32_put(packet + AT_TARGET_IP, target_ip);
}

static bool is_ethernet_and_ipv4(struct span packet)
{
    return packet.bytes >= ARP_PACKET_BYTES && be16_get(packet.at + AT_HARDWARE) == HARDWARE_ETHERNET &&
           be16_get(packet.at + AT_PROTOCOL) == ETHERNET_TYPE_IPV4 &&
           be16_get(packet.at + AT_SIZES) == SIZES_ETHERNET_IPV4;
}

bool arp_answer(struct arp *arp, struct span packet, uint8_t *reply)
{
    if (!is_ethernet_and_ipv4(packet))
        return false;
    const uint8_t *sender_mac = packet.at + AT_SENDER_MAC;
    const uint32_t sender_ip = be32_get(packet.at + AT_SENDER_IP);
    const bool is_for_us = be32_get(packet.at + AT_TARGET_IP) == arp->ip;

    learn(arp, sender_ip, sender_mac, is_for_us);
    if (!is_for_us || be16_get(packet.at + AT_OPERATION) != OPERATION_REQUEST || ethernet_is_group(sender_mac))
        return false;
    write_packet(arp, reply, OPERATION_REPLY, sender_mac, sender_ip);
    return true;
}

void arp_announce(const struct arp *arp, uint8_t *packet)
{
    static const uint8_t nobody[ETHERNET_ADDRESS_BYTES];
    write_packet(arp, packet, OPERATION_REQUEST, nobody, arp->ip);
}

const uint8_t *arp_find(const struct arp *arp, uint32_t ip)
{
    for (size_t i = 0; i < ARP_NEIGHBOURS_MAX; i++)
        if (ip != 0 && arp->neighbours[i].ip == ip)
            return arp->neighbours[i].mac;
    return NULL;
}
