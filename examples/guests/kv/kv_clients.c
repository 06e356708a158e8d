#include "kv_clients.h"

#include <stddef.h>

/* A search from end to end: 256 comparisons are cheaper than what a cleverer structure would write for each request. */
struct kv_client *kv_clients_hear(struct kv_clients *clients, uint64_t id)
{
    size_t place = 0; /* the client's, or that of the one silent longest */
    for (size_t i = 0; i < KV_CLIENTS_MAX; i++) {
        if (clients->id[i] == id && clients->last_heard[i] != 0) {
            clients->last_heard[i] = ++clients->heard;
            return &clients->client[i];
        }
        if (clients->last_heard[i] < clients->last_heard[place])
            place = i;
    }
    clients->id[place] = id;
    clients->last_heard[place] = ++clients->heard;
    clients->client[place].reply_bytes = 0;
    return &clients->client[place];
}

uint32_t kv_clients_count(const struct kv_clients *clients)
{
    uint32_t count = 0;
    for (size_t i = 0; i < KV_CLIENTS_MAX; i++)
        count += clients->last_heard[i] != 0;
    return count;
}
