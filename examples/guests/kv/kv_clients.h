/* kv_clients: what the server remembers of each client, so that a request sent twice is done once (kv_protocol.h). */
#ifndef KV_CLIENTS_H
#define KV_CLIENTS_H

#include <stdint.h>

#include "kv_protocol.h"

struct kv_client {
    uint64_t number;       /* of the last request done */
    uint16_t reply_bytes;  /* 0: none done yet */
    uint8_t reply[KV_REPLY_BYTES_MAX];
};

/* Nobody is known when zero. Identities and times stand apart from the rest, so that the search reads 4 KiB, not 90. */
struct kv_clients {
    uint64_t heard; /* requests so far: the clock by which the longest silent is found */
    uint64_t id[KV_CLIENTS_MAX];
    uint64_t last_heard[KV_CLIENTS_MAX]; /* 0: this place was never used */
    struct kv_client client[KV_CLIENTS_MAX];
};

/* Finds client `id`, or gives it the place of the one silent longest. Its reply_bytes is 0 if it is new. */
struct kv_client *kv_clients_hear(struct kv_clients *clients, uint64_t id);

/* How many are known. */
uint32_t kv_clients_count(const struct kv_clients *clients);

#endif
