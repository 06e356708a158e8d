/* The least that a server of a disk can do: it takes NBD requests from a unix socket and copies their bytes to a file, or
 * from it. No locks, no flags, no flushes but the file's. What any such server costs is seen beside it.
 *
 *     disk_peer SOCKET FILE
 */
#define _GNU_SOURCE
#include <endian.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_BYTES 16
#define PAYLOAD_MAX (32u << 20) /* what QEMU asks for at most */

enum command { READ = 0, WRITE = 1, DISCONNECT = 2, FLUSH = 3 };

static int receive(int end, void *out, size_t count)
{
    return count == 0 || recv(end, out, count, MSG_WAITALL) == (ssize_t)count ? 0 : -1;
}

static int give(int end, const uint8_t *from, size_t count)
{
    while (count > 0) {
        ssize_t sent = send(end, from, count, MSG_NOSIGNAL);
        if (sent <= 0)
            return -1;
        from += sent;
        count -= (size_t)sent;
    }
    return 0;
}

static uint32_t load32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return be32toh(value);
}

static uint64_t load64(const uint8_t *from)
{
    return (uint64_t)load32(from) << 32 | load32(from + 4);
}

static void store32(uint8_t *out, uint32_t value)
{
    value = htobe32(value);
    memcpy(out, &value, sizeof value);
}

/* Greets, and refuses every option but the oldest, by which all clients ask at last. Returns 0 when requests follow. */
static int agree(int end, uint64_t size)
{
    static const uint8_t greeting[18] = "NBDMAGICIHAVEOPT\0\3";
    uint8_t bytes[20], name[4096];
    if (give(end, greeting, sizeof greeting) < 0 || receive(end, bytes, 4) < 0)
        return -1;
    while (receive(end, bytes, 16) == 0) {
        uint32_t option = load32(bytes + 8), length = load32(bytes + 12);
        if (length > sizeof name || receive(end, name, length) < 0 || option == 2)
            return -1;
        uint8_t answer[20] = {0};
        if (option == 1) {
            store32(answer, (uint32_t)(size >> 32));
            store32(answer + 4, (uint32_t)size);
            answer[9] = 1 | 4; /* it has flags, and flushes */
            return give(end, answer, 10);
        }
        store32(answer, 0x0003E889u);
        store32(answer + 4, 0x045565A9u);
        store32(answer + 8, option);
        store32(answer + 12, (1u << 31) + 1); /* not supported */
        if (give(end, answer, sizeof answer) < 0)
            return -1;
    }
    return -1;
}

static void serve(int end, int file, uint8_t *reply)
{
    uint8_t bytes[28];
    while (receive(end, bytes, sizeof bytes) == 0) {
        uint32_t command = load32(bytes + 4) & 0xffff, length = load32(bytes + 24), payload = 0;
        off_t offset = (off_t)load64(bytes + 16);
        ssize_t done = 0;
        if (command == DISCONNECT || length > PAYLOAD_MAX)
            return;
        if (command == WRITE && receive(end, reply + REPLY_BYTES, length) < 0)
            return;
        if (command == WRITE)
            done = pwrite(file, reply + REPLY_BYTES, length, offset);
        else if (command == READ)
            done = pread(file, reply + REPLY_BYTES, payload = length, offset);
        else
            length = (uint32_t)(command == FLUSH ? -fdatasync(file) : 1);
        store32(reply, 0x67446698u);
        store32(reply + 4, done == (ssize_t)length ? 0 : 5);
        memcpy(reply + 8, bytes + 8, 8);
        if (give(end, reply, REPLY_BYTES + payload) < 0)
            return;
    }
}

int main(int count, char **words)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int file = count == 3 ? open(words[2], O_RDWR) : -1, listener = socket(AF_UNIX, SOCK_STREAM, 0);
    uint8_t *reply = malloc(REPLY_BYTES + PAYLOAD_MAX);
    struct stat status;
    if (file < 0 || listener < 0 || reply == NULL || fstat(file, &status) < 0 ||
        strlen(words[1]) >= sizeof address.sun_path) {
        fprintf(stderr, "usage: disk_peer SOCKET FILE\n");
        return 2;
    }
    strcpy(address.sun_path, words[1]);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1) < 0)
        return 1;
    for (;;) {
        int end = accept(listener, NULL, NULL);
        if (end >= 0 && agree(end, (uint64_t)status.st_size) == 0)
            serve(end, file, reply);
        close(end);
    }
}
