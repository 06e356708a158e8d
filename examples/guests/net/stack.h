/* stack: an Internet host that answers: ARP, ping, and one UDP service. A frame in, at most one frame out.
 *
 * No device, no clock, no memory: a pure function over `struct stack`, so that it runs on any machine and
 * under any checker. Safe on any frame; what it does not understand it drops.
 */
#ifndef STACK_H
#define STACK_H

#include "arp.h"
#include "bytes.h"
#include "ethernet.h"
#include "ipv4.h"
#include "udp.h"

#define STACK_UDP_PAYLOAD_BYTES_MAX (ETHERNET_PAYLOAD_BYTES_MAX - IPV4_HEADER_BYTES - UDP_HEADER_BYTES)

/* Answers a datagram: writes up to STACK_UDP_PAYLOAD_BYTES_MAX bytes to `reply`, returns how many, 0 for no answer. */
typedef size_t (*stack_service)(void *context, struct span request, uint8_t *reply);

struct stack {
    struct arp arp; /* our addresses, those of others */
    uint16_t port;  /* of the service */
    stack_service service;
    void *context;
};

/* Sets up a host with these addresses. */
void stack_start(struct stack *stack, const uint8_t *mac, uint32_t ip, uint16_t port, stack_service service,
                 void *context);

/* Takes a frame in. Returns the bytes of the answer written to `reply` (ETHERNET_FRAME_BYTES_MAX), 0 for no answer. */
size_t stack_answer(struct stack *stack, struct span frame, uint8_t *reply);

/* Writes a frame that announces our address to everybody. Returns its bytes. */
size_t stack_announce(const struct stack *stack, uint8_t *frame);

#endif
