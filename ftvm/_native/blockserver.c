#define _GNU_SOURCE
#include "blockserver.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_MAGIC 0x25609513u
#define REPLY_MAGIC 0x67446698u
#define REQUEST_BYTES 28
#define REPLY_BYTES 16

enum command { READ = 0, WRITE = 1, DISCONNECT = 2, FLUSH = 3, TRIM = 4, WRITE_ZEROES = 6 };
enum { FLAG_FUA = 1 };

/* NBD's own numbers, which are those of Linux. */
enum { ERROR_NONE = 0, ERROR_IO = 5, ERROR_MEMORY = 12, ERROR_INVALID = 22, ERROR_NO_SPACE = 28 };

struct request {
    uint16_t flags;
    uint16_t command;
    uint64_t cookie;
    uint64_t offset;
    uint32_t length;
};

struct owed {
    uint64_t cookie;
    uint64_t ticket;
};

struct server {
    struct ftvm_blockstore *store;
    int connection;
    uint8_t *reply; /* room for a reply and behind it the payload of either direction */
    struct owed owed[FTVM_BLOCKSERVER_FLUSHES_MAX];
    size_t owed_count;
    enum ftvm_blockserver_end end;
    uint64_t detail;
};

static uint64_t load_be(const uint8_t *bytes, size_t count)
{
    uint64_t value = 0;
    for (size_t i = 0; i < count; i++)
        value = value << 8 | bytes[i];
    return value;
}

static void store_be32(uint8_t *bytes, uint32_t value)
{
    uint32_t turned = htobe32(value);
    memcpy(bytes, &turned, sizeof turned);
}

static void store_be64(uint8_t *bytes, uint64_t value)
{
    uint64_t turned = htobe64(value);
    memcpy(bytes, &turned, sizeof turned);
}

static uint32_t nbd_error(int wrong)
{
    switch (-wrong) {
    case 0:
        return ERROR_NONE;
    case ENOSPC:
    case EDQUOT:
        return ERROR_NO_SPACE;
    case ENOMEM:
        return ERROR_MEMORY;
    default:
        return ERROR_IO;
    }
}

/* Returns 0, or -1 when the client has left. */
static int receive(const struct server *server, uint8_t *out, size_t count)
{
    while (count > 0) {
        ssize_t received = recv(server->connection, out, count, 0);
        if (received < 0 && errno == EINTR)
            continue;
        if (received <= 0)
            return -1;
        out += received;
        count -= (size_t)received;
    }
    return 0;
}

static int send_reply(const struct server *server, uint64_t cookie, uint32_t error, size_t payload_bytes)
{
    const uint8_t *from = server->reply;
    size_t left = REPLY_BYTES + payload_bytes;
    store_be32(server->reply, REPLY_MAGIC);
    store_be32(server->reply + 4, error);
    store_be64(server->reply + 8, cookie);
    while (left > 0) {
        ssize_t sent = send(server->connection, from, left, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return -1;
        from += sent;
        left -= (size_t)sent;
    }
    return 0;
}

/* Answers the flushes that are done. Returns -1 when the client has left. */
static int answer_owed(struct server *server)
{
    size_t kept = 0;
    for (size_t i = 0; i < server->owed_count; i++) {
        struct owed owed = server->owed[i];
        int state = ftvm_blockstore_flushed(server->store, owed.ticket);
        if (state == 0)
            server->owed[kept++] = owed;
        else if (send_reply(server, owed.cookie, nbd_error(state < 0 ? state : 0), 0) < 0)
            return -1;
    }
    server->owed_count = kept;
    return 0;
}

/* Waits for a request, and answers flushes meanwhile. Returns 1 when there is one, -1 when the client has left. */
static int await_request(struct server *server)
{
    for (;;) {
        int is_full = server->owed_count == FTVM_BLOCKSERVER_FLUSHES_MAX;
        struct pollfd waits[] = {{server->connection, (short)(is_full ? 0 : POLLIN), 0},
                                 {ftvm_blockstore_event(server->store), POLLIN, 0}};
        if (poll(waits, 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            server->end = FTVM_BLOCKSERVER_BROKEN;
            server->detail = (uint64_t)errno;
            return -1;
        }
        if (waits[1].revents != 0) {
            uint64_t count;
            if (read(waits[1].fd, &count, sizeof count) < 0 && errno != EAGAIN && errno != EINTR)
                return -1;
            if (answer_owed(server) < 0)
                return -1;
        }
        if (waits[0].revents & POLLIN)
            return 1;
        if (waits[0].revents != 0)
            return -1;
    }
}

static int owe(struct server *server, uint64_t cookie, int is_fua)
{
    server->owed[server->owed_count++] =
        (struct owed){.cookie = cookie, .ticket = ftvm_blockstore_flush(server->store, is_fua)};
    return answer_owed(server);
}

static int is_within(const struct server *server, const struct request *request)
{
    uint64_t size = ftvm_blockstore_size(server->store);
    return request->offset <= size && request->length <= size - request->offset;
}

/* Carries out what changes the disk. Returns the error to answer with. */
static uint32_t change(struct server *server, const struct request *request)
{
    uint8_t *payload = server->reply + REPLY_BYTES;
    if (request->command != WRITE && request->command != TRIM && request->command != WRITE_ZEROES)
        return ERROR_INVALID;
    if (request->length > FTVM_BLOCKSERVER_PAYLOAD_MAX)
        return ERROR_INVALID;
    if (!is_within(server, request))
        return request->command == TRIM ? ERROR_INVALID : ERROR_NO_SPACE;
    if (request->command == WRITE)
        return nbd_error(ftvm_blockstore_write(server->store, request->offset, request->length, payload));
    return nbd_error(
        ftvm_blockstore_zero(server->store, request->offset, request->length, request->command == TRIM));
}

/* Returns 0, or -1 when the client has left. */
static int serve_read(struct server *server, const struct request *request)
{
    uint32_t error = ERROR_INVALID;
    if (is_within(server, request))
        error = nbd_error(ftvm_blockstore_read(server->store, request->offset, request->length,
                                               server->reply + REPLY_BYTES));
    return send_reply(server, request->cookie, error, error == ERROR_NONE ? request->length : 0);
}

/* Returns 0 when another request may follow. */
static int serve_one(struct server *server)
{
    uint8_t bytes[REQUEST_BYTES];
    if (receive(server, bytes, sizeof bytes) < 0)
        return -1;
    if (load_be(bytes, 4) != REQUEST_MAGIC) {
        server->end = FTVM_BLOCKSERVER_BAD_MAGIC;
        server->detail = load_be(bytes, 4);
        return -1;
    }
    struct request request = {(uint16_t)load_be(bytes + 4, 2), (uint16_t)load_be(bytes + 6, 2), load_be(bytes + 8, 8),
                              load_be(bytes + 16, 8), (uint32_t)load_be(bytes + 24, 4)};
    if (request.command == DISCONNECT)
        return -1;
    if ((request.command == READ || request.command == WRITE) && request.length > FTVM_BLOCKSERVER_PAYLOAD_MAX) {
        server->end = FTVM_BLOCKSERVER_TOO_LONG;
        server->detail = request.length;
        return -1;
    }
    if (request.command == READ)
        return serve_read(server, &request);
    if (request.command == FLUSH)
        return owe(server, request.cookie, 0);
    if (request.command == WRITE && receive(server, server->reply + REPLY_BYTES, request.length) < 0)
        return -1;
    uint32_t error = change(server, &request);
    if (error == ERROR_NONE && (request.flags & FLAG_FUA))
        return owe(server, request.cookie, 1);
    return send_reply(server, request.cookie, error, 0);
}

enum ftvm_blockserver_end ftvm_blockserver_serve(struct ftvm_blockstore *store, int connection, uint64_t *detail)
{
    struct server server = {.store = store, .connection = connection, .end = FTVM_BLOCKSERVER_LEFT};
    server.reply = malloc(REPLY_BYTES + FTVM_BLOCKSERVER_PAYLOAD_MAX);
    if (server.reply == NULL) {
        *detail = ENOMEM;
        return FTVM_BLOCKSERVER_BROKEN;
    }
    while (await_request(&server) > 0 && serve_one(&server) == 0)
        continue;
    free(server.reply);
    *detail = server.detail;
    return server.end;
}
