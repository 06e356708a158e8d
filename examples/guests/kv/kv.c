#include "kv.h"

#include <string.h>

#include "../board/text.h"

struct request {
    uint8_t operation;
    uint64_t client;
    uint64_t number;
    struct span key;
    struct span value;
};

/* Whether the lengths are what this operation takes. */
static bool has_right_lengths(uint8_t operation, size_t key_bytes, size_t value_bytes)
{
    const bool is_key_right = key_bytes >= 1 && key_bytes <= KV_KEY_BYTES_MAX;
    switch (operation) {
    case KV_PUT:
        return is_key_right && value_bytes <= KV_VALUE_BYTES_MAX;
    case KV_GET:
        return is_key_right && value_bytes == 0;
    case KV_STAT:
        return key_bytes == 0 && value_bytes == 0;
    default:
        return false;
    }
}

/* Takes a request apart whose header is whole. Returns false if it is malformed; client and number are set all the
 * same. */
static bool parse(struct span bytes, struct request *request)
{
    const uint8_t *at = bytes.at;
    const size_t key_bytes = be16_get(at + KV_REQUEST_AT_KEY_BYTES);
    const size_t value_bytes = be16_get(at + KV_REQUEST_AT_VALUE_BYTES);
    request->operation = at[KV_REQUEST_AT_OPERATION];
    request->client = be64_get(at + KV_REQUEST_AT_CLIENT);
    request->number = be64_get(at + KV_REQUEST_AT_NUMBER);
    if (at[KV_REQUEST_AT_VERSION] != KV_VERSION || be16_get(at + KV_REQUEST_AT_RESERVED) != 0 ||
        bytes.bytes != KV_REQUEST_HEADER_BYTES + key_bytes + value_bytes ||
        !has_right_lengths(request->operation, key_bytes, value_bytes))
        return false;
    request->key = (struct span){.at = at + KV_REQUEST_HEADER_BYTES, .bytes = key_bytes};
    request->value = (struct span){.at = request->key.at + key_bytes, .bytes = value_bytes};
    return true;
}

/* Writes the header before a value of `value_bytes` that already stands behind it. Returns the reply's bytes. */
static size_t write_reply(const struct kv *kv, struct kv_vitals vitals, const struct request *request, uint8_t *reply,
                          enum kv_status status, size_t value_bytes)
{
    be32_put(reply, KV_REPLY_MAGIC);
    reply[KV_REPLY_AT_VERSION] = KV_VERSION;
    reply[KV_REPLY_AT_STATUS] = (uint8_t)status;
    be16_put(reply + KV_REPLY_AT_VALUE_BYTES, (uint16_t)value_bytes);
    be64_put(reply + KV_REPLY_AT_CLIENT, request->client);
    be64_put(reply + KV_REPLY_AT_NUMBER, request->number);
    be64_put(reply + KV_REPLY_AT_UPTIME, vitals.uptime);
    be64_put(reply + KV_REPLY_AT_BOOT, vitals.boot);
    be64_put(reply + KV_REPLY_AT_WRITES, kv->writes);
    return KV_REPLY_HEADER_BYTES + value_bytes;
}

static enum kv_status put(struct kv *kv, const struct request *request)
{
    if (!kv_table_put(&kv->table, request->key, request->value))
        return KV_FULL;
    kv->writes += 1;
    return KV_OK;
}

static enum kv_status get(const struct kv *kv, const struct request *request, uint8_t *out, size_t *bytes)
{
    struct span value;
    if (!kv_table_get(&kv->table, request->key, &value))
        return KV_NOT_FOUND;
    memcpy(out, value.at, value.bytes);
    *bytes = value.bytes;
    return KV_OK;
}

static size_t describe(const struct kv *kv, uint8_t *out)
{
    struct text text = text_in((char *)out, KV_VALUE_BYTES_MAX);
    text_add(&text, "keys ");
    text_add_number(&text, kv->table.count);
    text_add(&text, " of ");
    text_add_number(&text, KV_ENTRIES_MAX);
    text_add(&text, ", writes ");
    text_add_number(&text, kv->writes);
    text_add(&text, ", clients ");
    text_add_number(&text, kv_clients_count(&kv->clients));
    return text.bytes;
}

/* Does what is asked and writes the reply. */
static size_t act(struct kv *kv, struct kv_vitals vitals, const struct request *request, uint8_t *reply)
{
    uint8_t *value = reply + KV_REPLY_HEADER_BYTES;
    size_t value_bytes = 0;
    enum kv_status status = KV_OK;
    if (request->operation == KV_PUT)
        status = put(kv, request);
    else if (request->operation == KV_GET)
        status = get(kv, request, value, &value_bytes);
    else
        value_bytes = describe(kv, value);
    return write_reply(kv, vitals, request, reply, status, value_bytes);
}

size_t kv_answer(struct kv *kv, struct kv_vitals vitals, struct span bytes, uint8_t *reply)
{
    if (bytes.bytes < KV_REQUEST_HEADER_BYTES || be32_get(bytes.at) != KV_REQUEST_MAGIC)
        return 0;
    struct request request;
    if (!parse(bytes, &request))
        return write_reply(kv, vitals, &request, reply, KV_BAD_REQUEST, 0);

    struct kv_client *client = kv_clients_hear(&kv->clients, request.client);
    const bool is_known = client->reply_bytes != 0;
    if (is_known && request.number < client->number)
        return write_reply(kv, vitals, &request, reply, KV_STALE, 0);
    if (!is_known || request.number > client->number) {
        client->number = request.number;
        client->reply_bytes = (uint16_t)act(kv, vitals, &request, client->reply);
    }
    memcpy(reply, client->reply, client->reply_bytes);
    return client->reply_bytes;
}
