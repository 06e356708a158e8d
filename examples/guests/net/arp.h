/* arp: who has which address. Answers for our own, learns those of others.
 *
 * Source: RFC 826 (the packet, and when to answer and to learn), RFC 5227 (announcement).
 */
#ifndef ARP_H
#define ARP_H

#include <stdbool.h>

#include "bytes.h"
#include "ethernet.h"

#define ARP_PACKET_BYTES 28u
#define ARP_NEIGHBOURS_MAX 16u

struct arp_neighbour {
    uint32_t ip; /* 0: this place is free */
    uint8_t mac[ETHERNET_ADDRESS_BYTES];
};

/* Ourselves and who we heard of. When the table is full, the one learned longest ago makes room. */
struct arp {
    uint32_t ip;
    uint8_t mac[ETHERNET_ADDRESS_BYTES];
    uint8_t next; /* the place to learn into next */
    struct arp_neighbour neighbours[ARP_NEIGHBOURS_MAX];
};

/* Takes a packet in: learns its sender, and answers into `reply` (ARP_PACKET_BYTES) if it asks for us.
 * Returns whether there is an answer; it goes to the packet's sender. */
bool arp_answer(struct arp *arp, struct span packet, uint8_t *reply);

/* Writes an announcement of our address (ARP_PACKET_BYTES), to be broadcast. */
void arp_announce(const struct arp *arp, uint8_t *packet);

/* The address learned for `ip`, or NULL. */
const uint8_t *arp_find(const struct arp *arp, uint32_t ip);

#endif
