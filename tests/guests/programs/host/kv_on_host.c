/* kv_on_host: the key-value server's network half as a filter, built for the host with sanitizers.
 *
 * Reads frames from standard input (u16 big-endian length, then the frame) and writes one answer for each to standard
 * output in the same form; length 0 is no answer. Each frame is copied to memory of its exact size, so that one byte
 * read past its end is seen. A 0xffff in place of a length asks for the announcement.
 */
#include <stdio.h>
#include <stdlib.h>

#include "kv/kv.h"
#include "net/stack.h"

#define ANNOUNCE 0xffffu

static struct stack stack;
static struct kv kv;
static uint64_t uptime;

static size_t serve(void *context, struct span request, uint8_t *reply)
{
    return kv_answer(context, (struct kv_vitals){.uptime = ++uptime, .boot = 7}, request, reply);
}

static size_t answer(size_t bytes, uint8_t *reply)
{
    if (bytes == ANNOUNCE)
        return stack_announce(&stack, reply);
    uint8_t *frame = malloc(bytes == 0 ? 1 : bytes);
    if (frame == NULL || fread(frame, 1, bytes, stdin) != bytes)
        exit(2);
    const size_t reply_bytes = stack_answer(&stack, (struct span){.at = frame, .bytes = bytes}, reply);
    free(frame);
    return reply_bytes;
}

int main(void)
{
    static const uint8_t mac[ETHERNET_ADDRESS_BYTES] = {0x02, 0, 0, 0, 0, 0x07};
    uint8_t length[2];
    stack_start(&stack, mac, IPV4_ADDRESS(10, 77, 0, 2), KV_PORT, serve, &kv);
    while (fread(length, 1, sizeof length, stdin) == sizeof length) {
        uint8_t *reply = malloc(ETHERNET_FRAME_BYTES_MAX);
        if (reply == NULL)
            return 2;
        const size_t bytes = answer(be16_get(length), reply);
        be16_put(length, (uint16_t)bytes);
        fwrite(length, 1, sizeof length, stdout);
        fwrite(reply, 1, bytes, stdout);
        fflush(stdout);
        free(reply);
    }
    return 0;
}
