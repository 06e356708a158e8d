#include "stack.h"

#include "icmp.h"

static const uint8_t everybody[ETHERNET_ADDRESS_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

void stack_start(struct stack *stack, const uint8_t *mac, uint32_t ip, uint16_t port, stack_service service,
                 void *context)
{
    *stack = (struct stack){.arp = {.ip = ip}, .port = port, .service = service, .context = context};
    memcpy(stack->arp.mac, mac, ETHERNET_ADDRESS_BYTES);
}

static size_t answer_udp(struct stack *stack, const struct ipv4_packet *packet, struct ipv4_packet *answer,
                         uint8_t *reply)
{
    struct udp_datagram datagram;
    if (!udp_parse(packet, &datagram) || datagram.destination_port != stack->port)
        return 0;
    const size_t bytes = stack->service(stack->context, datagram.payload, reply + UDP_HEADER_BYTES);
    if (bytes == 0 || bytes > STACK_UDP_PAYLOAD_BYTES_MAX)
        return 0;
    answer->payload = (struct span){.at = reply, .bytes = UDP_HEADER_BYTES + bytes};
    udp_write(reply, answer, datagram.destination_port, datagram.source_port);
    return answer->payload.bytes;
}

/* Answers the IP packet `bytes` with an IP packet at `reply`; tells in *to who gets it. */
static size_t answer_ipv4(struct stack *stack, struct span bytes, uint8_t *reply, uint32_t *to)
{
    struct ipv4_packet packet;
    if (!ipv4_parse(bytes, &packet) || packet.destination != stack->arp.ip || packet.source == stack->arp.ip)
        return 0;
    struct ipv4_packet answer = {
        .source = packet.destination, .destination = packet.source, .protocol = packet.protocol};
    uint8_t *payload = reply + IPV4_HEADER_BYTES;
    size_t payload_bytes = 0;
    if (packet.protocol == IPV4_PROTOCOL_UDP)
        payload_bytes = answer_udp(stack, &packet, &answer, payload);
    else if (packet.protocol == IPV4_PROTOCOL_ICMP)
        payload_bytes = icmp_answer(packet.payload, payload);
    if (payload_bytes == 0)
        return 0;
    answer.payload = (struct span){.at = payload, .bytes = payload_bytes};
    ipv4_write(reply, &answer);
    *to = packet.source;
    return IPV4_HEADER_BYTES + payload_bytes;
}

size_t stack_answer(struct stack *stack, struct span bytes, uint8_t *reply)
{
    struct ethernet_frame frame;
    if (!ethernet_parse(bytes, &frame) || ethernet_is_group(frame.source))
        return 0;
    const bool is_for_us = memcmp(frame.destination, stack->arp.mac, ETHERNET_ADDRESS_BYTES) == 0;
    if (!is_for_us && memcmp(frame.destination, everybody, ETHERNET_ADDRESS_BYTES) != 0)
        return 0;

    const uint8_t *to = frame.source;
    size_t payload_bytes = 0;
    if (frame.type == ETHERNET_TYPE_ARP) {
        payload_bytes = arp_answer(&stack->arp, frame.payload, reply + ETHERNET_HEADER_BYTES) ? ARP_PACKET_BYTES : 0;
    } else if (frame.type == ETHERNET_TYPE_IPV4 && is_for_us) {
        uint32_t ip = 0;
        payload_bytes = answer_ipv4(stack, frame.payload, reply + ETHERNET_HEADER_BYTES, &ip);
        /* A neighbour said by ARP where it is; anyone else is reached the way the question came. */
        if (payload_bytes != 0 && arp_find(&stack->arp, ip) != NULL)
            to = arp_find(&stack->arp, ip);
    }
    if (payload_bytes == 0)
        return 0;
    ethernet_write(reply, to, stack->arp.mac, frame.type);
    return ETHERNET_HEADER_BYTES + payload_bytes;
}

size_t stack_announce(const struct stack *stack, uint8_t *frame)
{
    ethernet_write(frame, everybody, stack->arp.mac, ETHERNET_TYPE_ARP);
    arp_announce(&stack->arp, frame + ETHERNET_HEADER_BYTES);
    return ETHERNET_HEADER_BYTES + ARP_PACKET_BYTES;
}
