/* kv: the key-value server: a request in, a reply out, as kv_protocol.h says.
 *
 * Pure over `struct kv`: no device, no network. What only the machine knows comes with the call. Safe on any bytes.
 */
#ifndef KV_H
#define KV_H

#include "../net/bytes.h"
#include "kv_clients.h"
#include "kv_protocol.h"
#include "kv_table.h"

/* An empty server when zero. */
struct kv {
    uint64_t writes;
    struct kv_clients clients;
    struct kv_table table;
};

/* What the replies tell about the machine. */
struct kv_vitals {
    uint64_t uptime;
    uint64_t boot;
};

/* Answers `request` into `reply` (KV_REPLY_BYTES_MAX). Returns the reply's bytes, 0 if it gives no reply. */
size_t kv_answer(struct kv *kv, struct kv_vitals vitals, struct span request, uint8_t *reply);

#endif
