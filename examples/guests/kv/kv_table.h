/* kv_table: a hash table from keys to values, of fixed size, that only grows.
 *
 * Two parts: an index of small numbers, searched by linear probing and never more than half full, and the entries in
 * the order they came. A PUT of a known key thus writes one entry; a new key one entry and one number: few pages
 * change per request, and those belong to what was asked.
 */
#ifndef KV_TABLE_H
#define KV_TABLE_H

#include <stdbool.h>

#include "../net/bytes.h"
#include "kv_protocol.h"

#define KV_INDEX_SIZE (2u * KV_ENTRIES_MAX) /* a power of two */

struct kv_entry {
    uint16_t value_bytes;
    uint8_t key_bytes;
    uint8_t key[KV_KEY_BYTES_MAX];
    uint8_t value[KV_VALUE_BYTES_MAX];
};

/* Empty when zero. */
struct kv_table {
    uint32_t count;
    uint16_t index[KV_INDEX_SIZE]; /* 0: free; else 1 + the entry's place */
    struct kv_entry entries[KV_ENTRIES_MAX];
};

/* Finds the value of `key`. Returns false if it has no value. The value is valid until the next put. */
bool kv_table_get(const struct kv_table *table, struct span key, struct span *value);

/* Sets the value of `key`; both are within the protocol's limits. Returns false, and changes nothing, if the table is
 * full. */
bool kv_table_put(struct kv_table *table, struct span key, struct span value);

#endif
