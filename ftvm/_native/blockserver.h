/* blockserver: the transmission phase of NBD, over a store, for one client.
 *
 * It begins where the negotiation ended: the client sends requests, and gets a simple reply to each. Reads, writes and
 * zeros are carried out in the order in which they come; a flush, or a write with FUA, is answered when the store has
 * done it, and what comes behind is served meanwhile: replies are told apart by their cookies, as NBD has it. At most
 * FTVM_BLOCKSERVER_FLUSHES_MAX such answers are owed; then no request is read until one is done.
 *
 * Nothing in a request is trusted: lengths and offsets are checked against the store before a byte is read or moved.
 * Never calls back. Source: the NBD protocol, github.com/NetworkBlockDevice/nbd, doc/proto.md.
 */
#ifndef FTVM_BLOCKSERVER_H
#define FTVM_BLOCKSERVER_H

#include "blockstore.h"

/* The most a client may read, write or make zero at once; the negotiation tells it so. A stop waits for all that was
 * asked, and an epoch ships it: a few bytes must not ask for gigabytes. More zeros than that are refused. */
#define FTVM_BLOCKSERVER_PAYLOAD_MAX (1u << 20)
#define FTVM_BLOCKSERVER_FLUSHES_MAX 128

enum ftvm_blockserver_end {
    FTVM_BLOCKSERVER_LEFT = 0,      /* it disconnected, or its socket was closed */
    FTVM_BLOCKSERVER_BAD_MAGIC = 1, /* a request does not begin as one: detail is what it begins with */
    FTVM_BLOCKSERVER_TOO_LONG = 2,  /* a read or write of more than the most: detail is its length */
    FTVM_BLOCKSERVER_BROKEN = 3,    /* this system refused something: detail is the errno */
};

/* Serves the client at the other end of the stream socket `connection` until it leaves. Blocks; the socket stays the
 * caller's, who may end the service by shutting it down.
 *
 * detail  out: see the ends */
enum ftvm_blockserver_end ftvm_blockserver_serve(struct ftvm_blockstore *store, int connection, uint64_t *detail);

#endif
