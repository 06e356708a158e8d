/* Any bytes as a client of a small disk, held or released: none are written past it, the image keeps its size, and what is
 * read, by the client or in memory, is what a plain array would hold after the requests that were answered with success.
 *
 * Input: one byte of options, then requests of 8 bytes (command, flags, offset, length, fill), which are turned into
 * requests of NBD; bytes left over at the end are sent as they are. */
#define _GNU_SOURCE
#include "blockserver.h"
#include "mapping.h"

#include <endian.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCKS 4
#define SIZE (BLOCKS * FTVM_BLOCK_BYTES)
#define REQUESTS_MAX 64

struct drain {
    int connection;
    uint8_t *replies;
    size_t size;
};

static void *drain(void *argument)
{
    struct drain *drain = argument;
    size_t room = REQUESTS_MAX * (16 + SIZE) + 65536;
    drain->replies = malloc(room);
    ssize_t count;
    while ((count = recv(drain->connection, drain->replies + drain->size, room - drain->size, 0)) > 0)
        drain->size += (size_t)count;
    return NULL;
}

static void send_all(int connection, const void *bytes, size_t count)
{
    const uint8_t *from = bytes;
    while (count > 0) {
        ssize_t sent = send(connection, from, count, MSG_NOSIGNAL);
        if (sent <= 0)
            return;
        from += sent;
        count -= (size_t)sent;
    }
}

struct wire {
    uint32_t magic;
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
} __attribute__((packed));

/* Sends one request. `model` changes as the disk has to. */
static void request_send(int connection, const uint8_t *from, uint64_t cookie, uint8_t *model)
{
    uint16_t command = from[0] % 8;
    uint32_t offset = (uint32_t)(from[2] << 8 | from[3]) % (SIZE + 8);
    uint32_t length = (uint32_t)(from[4] << 8 | from[5]) % (SIZE + 8);
    struct wire wire = {htobe32(0x25609513u), htobe16((uint16_t)(from[1] & 3)), htobe16(command), cookie,
                        htobe64(offset), htobe32(length)};
    send_all(connection, &wire, sizeof wire);
    uint8_t content[SIZE + 8];
    memset(content, from[6], sizeof content);
    if (command == 1)
        send_all(connection, content, length);
    if (offset > SIZE || length > SIZE - offset)
        return;
    uint32_t end = offset + length;
    if (command == 4) {
        offset = (offset + FTVM_BLOCK_BYTES - 1) / FTVM_BLOCK_BYTES * FTVM_BLOCK_BYTES;
        end = end / FTVM_BLOCK_BYTES * FTVM_BLOCK_BYTES;
    }
    if ((command == 1 || command == 4 || command == 6) && offset < end)
        memset(model + offset, command == 1 ? from[6] : 0, end - offset);
}

struct client {
    int connection;
    const uint8_t *data;
    size_t size;
    uint8_t model[SIZE];
};

static void *client_run(void *argument)
{
    struct client *client = argument;
    size_t count = client->size / 8 < REQUESTS_MAX ? client->size / 8 : REQUESTS_MAX;
    size_t sent = 0;
    for (; sent < count && client->data[sent * 8] % 8 != 2; sent++)
        request_send(client->connection, client->data + sent * 8, sent, client->model);
    if (sent == count)
        send_all(client->connection, client->data + sent * 8, client->size - sent * 8);
    shutdown(client->connection, SHUT_WR);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    int pair[2], image = memfd_create("image", MFD_CLOEXEC);
    if (image < 0 || ftruncate(image, SIZE) != 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0)
        abort();
    uint8_t *pages = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int mapping = ftvm_mapping_guard(pages, SIZE);
    if (mapping < 0 || ftvm_mapping_show(mapping, image) != 0)
        abort();
    uint8_t *written = calloc(BLOCKS, 1), *held = calloc(BLOCKS, 1);
    uint8_t written_part = 0, held_part = 0;
    struct ftvm_blockstore_parts parts = {SIZE, mapping, pages, written, held, &written_part, &held_part,
                                          1u << 20, 1, SIZE, 1, -1, -1};
    struct ftvm_blockstore *store = ftvm_blockstore_open(&parts);
    int is_held = data[0] & 1;
    ftvm_blockstore_cover(store, data[0] >> 2 & 1);
    if (is_held)
        ftvm_blockstore_hurry(store, 1); /* or a flush would never be answered */
    else
        ftvm_blockstore_release(store, image);

    struct client client = {.connection = pair[0], .data = data + 1, .size = size - 1};
    struct drain replies = {.connection = pair[0]};
    pthread_t sender, reader;
    if (pthread_create(&sender, NULL, client_run, &client) != 0 || pthread_create(&reader, NULL, drain, &replies) != 0)
        abort();
    uint64_t detail;
    ftvm_blockserver_serve(store, pair[1], &detail);
    shutdown(pair[1], SHUT_RDWR);
    pthread_join(sender, NULL);
    pthread_join(reader, NULL);

    if (is_held && (data[0] & 2))
        ftvm_blockstore_release(store, image);
    ftvm_blockstore_close(store);
    ftvm_blockstore_free(store);
    struct stat status;
    if (fstat(image, &status) != 0 || status.st_size != SIZE)
        abort();
    if ((size - 1) % 8 == 0 && (size - 1) / 8 <= REQUESTS_MAX && memcmp(pages, client.model, SIZE) != 0)
        abort();
    ftvm_mapping_unguard(mapping);
    munmap(pages, SIZE);
    close(pair[0]), close(pair[1]), close(image);
    free(written), free(held), free(replies.replies);
    return 0;
}
