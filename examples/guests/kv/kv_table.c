#include "kv_table.h"

#include <string.h>

_Static_assert((KV_INDEX_SIZE & (KV_INDEX_SIZE - 1)) == 0, "a place in the index is a hash cut to its low bits");
_Static_assert(KV_ENTRIES_MAX < UINT16_MAX, "the index holds 1 + place in 16 bits");

/* FNV-1a, 64 bits: short, and good enough for keys that nobody crafts to collide. */
static uint64_t hash(struct span key)
{
    uint64_t value = 0xcbf29ce484222325u;
    for (size_t i = 0; i < key.bytes; i++)
        value = (value ^ key.at[i]) * 0x100000001b3u;
    return value ^ value >> 32;
}

static bool has_key(const struct kv_entry *entry, struct span key)
{
    return entry->key_bytes == key.bytes && memcmp(entry->key, key.at, key.bytes) == 0;
}

/* Where in the index `key` is, or where it would be put. Ends, because half of the index is always free. */
static size_t find(const struct kv_table *table, struct span key)
{
    size_t place = hash(key) % KV_INDEX_SIZE;
    while (table->index[place] != 0 && !has_key(&table->entries[table->index[place] - 1u], key))
        place = (place + 1) % KV_INDEX_SIZE;
    return place;
}

bool kv_table_get(const struct kv_table *table, struct span key, struct span *value)
{
    const uint16_t number = table->index[find(table, key)];
    if (number == 0)
        return false;
    const struct kv_entry *entry = &table->entries[number - 1u];
    *value = (struct span){.at = entry->value, .bytes = entry->value_bytes};
    return true;
}

bool kv_table_put(struct kv_table *table, struct span key, struct span value)
{
    const size_t place = find(table, key);
    if (table->index[place] == 0) {
        if (table->count == KV_ENTRIES_MAX)
            return false;
        struct kv_entry *fresh = &table->entries[table->count];
        table->count += 1;
        table->index[place] = (uint16_t)table->count;
        fresh->key_bytes = (uint8_t)key.bytes;
        memcpy(fresh->key, key.at, key.bytes);
    }
    struct kv_entry *entry = &table->entries[table->index[place] - 1u];
    entry->value_bytes = (uint16_t)value.bytes;
    memcpy(entry->value, value.at, value.bytes);
    return true;
}
