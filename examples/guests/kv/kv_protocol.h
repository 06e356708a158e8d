/* kv_protocol: how to talk to the key-value server. One request, one reply, each a UDP datagram to and from port 7000.
 *
 * All numbers are big-endian; offsets are in bytes from the start of the UDP payload.
 *
 *     request                                     reply
 *      0  u32  magic "FTKV"                        0  u32  magic "FTKR"
 *      4  u8   version, 1                          4  u8   version, 1
 *      5  u8   operation: 1 PUT, 2 GET, 3 STAT     5  u8   status: see enum kv_status
 *      6  u16  key bytes: 1..32, STAT: 0           6  u16  value bytes
 *      8  u64  client                              8  u64  client, from the request
 *     16  u64  number                             16  u64  number, from the request
 *     24  u16  value bytes: PUT: 0..256, else 0   24  u64  uptime
 *     26  u16  reserved, 0                        32  u64  boot
 *     28       key, then value; no byte more      40  u64  writes
 *                                                 48       value
 *
 * PUT sets the key's value and replies with none. GET replies with the value. STAT replies with a short text for
 * people.
 *
 * Once and only once. UDP loses and repeats; a client sends again until it is answered. So that a PUT whose
 * answer was lost does not act twice, each client chooses an identity (64 random bits will do), numbers
 * its requests upwards and has one outstanding at a time. The server keeps each client's last number and last reply:
 *
 *     the same number again    the same reply, byte for byte; nothing is done
 *     a lower number           KV_STALE; nothing is done
 *     a higher number          done, replied to, remembered
 *
 * It remembers KV_CLIENTS_MAX clients and forgets the one silent longest when another comes; a client that was
 * forgotten while a request of its was under way may see that one request done twice. A malformed request is done by
 * nobody and remembered nowhere: it is answered KV_BAD_REQUEST if its header is whole and the magic right, else not at
 * all.
 *
 * What a client can check. Within one boot, `uptime` (instructions the machine has retired, or nanoseconds under an
 * operating system that hides them) and `writes` (PUTs done for all clients) never go back, nor does what a GET
 * returns. `boot` names the boot: its low 16 bits count the starts that kept memory, the rest is when the first frame
 * of this boot came (in timer ticks), which differs from one cold start to the next. A takeover keeps all of them
 * going; a machine that was started again shows in every one. Replies repeated or passed on the way carry older figures.
 */
#ifndef KV_PROTOCOL_H
#define KV_PROTOCOL_H

#define KV_PORT 7000u
#define KV_VERSION 1u

#define KV_KEY_BYTES_MAX 32u
#define KV_VALUE_BYTES_MAX 256u
#ifndef KV_ENTRIES_MAX /* a smaller machine's build may set another */
#define KV_ENTRIES_MAX 16384u /* keys; none is ever removed */
#endif
#define KV_CLIENTS_MAX 256u

enum kv_operation { KV_PUT = 1, KV_GET = 2, KV_STAT = 3 };

enum kv_status {
    KV_OK = 0,
    KV_NOT_FOUND = 1,   /* GET: nobody has PUT this key */
    KV_BAD_REQUEST = 2, /* not what is drawn above */
    KV_FULL = 3,        /* PUT: the key is new and KV_ENTRIES_MAX are in use */
    KV_STALE = 4,       /* the number is lower than the client's last */
};

#define KV_REQUEST_MAGIC 0x46544b56u
#define KV_REQUEST_AT_VERSION 4u
#define KV_REQUEST_AT_OPERATION 5u
#define KV_REQUEST_AT_KEY_BYTES 6u
#define KV_REQUEST_AT_CLIENT 8u
#define KV_REQUEST_AT_NUMBER 16u
#define KV_REQUEST_AT_VALUE_BYTES 24u
#define KV_REQUEST_AT_RESERVED 26u
#define KV_REQUEST_HEADER_BYTES 28u

#define KV_REPLY_MAGIC 0x46544b52u
#define KV_REPLY_AT_VERSION 4u
#define KV_REPLY_AT_STATUS 5u
#define KV_REPLY_AT_VALUE_BYTES 6u
#define KV_REPLY_AT_CLIENT 8u
#define KV_REPLY_AT_NUMBER 16u
#define KV_REPLY_AT_UPTIME 24u
#define KV_REPLY_AT_BOOT 32u
#define KV_REPLY_AT_WRITES 40u
#define KV_REPLY_HEADER_BYTES 48u
#define KV_REPLY_BYTES_MAX (KV_REPLY_HEADER_BYTES + KV_VALUE_BYTES_MAX)

#endif
