#define _GNU_SOURCE
#include "blockfile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZEROS_BYTES 65536

static int ask(int witness, enum ftvm_blockfile_change change, uint64_t offset, uint64_t length, const uint8_t *content)
{
    if (witness < 0)
        return 0;
    struct ftvm_blockfile_told told = {change, (uint32_t)length, offset};
    uint8_t answer = 0;
    if (send(witness, &told, sizeof told, MSG_NOSIGNAL | (content != NULL ? MSG_MORE : 0)) < 0)
        return -errno;
    for (uint64_t sent = 0; content != NULL && sent < length;) {
        ssize_t more = send(witness, content + sent, length - sent, MSG_NOSIGNAL);
        if (more < 0)
            return -errno;
        sent += (uint64_t)more;
    }
    return recv(witness, &answer, 1, MSG_WAITALL) == 1 ? -answer : -EIO;
}

int ftvm_blockfile_read(int image, uint64_t offset, uint64_t length, uint8_t *out)
{
    while (length > 0) {
        ssize_t found = pread(image, out, length, (off_t)offset);
        if (found < 0 && errno == EINTR)
            continue;
        if (found <= 0)
            return found == 0 ? -EIO : -errno;
        out += found;
        offset += (uint64_t)found;
        length -= (uint64_t)found;
    }
    return 0;
}

int ftvm_blockfile_write(int image, int witness, uint64_t offset, uint64_t length, const uint8_t *content)
{
    int wrong = ask(witness, FTVM_BLOCKFILE_WRITE, offset, length, content);
    while (wrong == 0 && length > 0) {
        ssize_t written = pwrite(image, content, length, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return written == 0 ? -EIO : -errno;
        content += written;
        offset += (uint64_t)written;
        length -= (uint64_t)written;
    }
    return wrong;
}

int ftvm_blockfile_zero(int image, int witness, uint64_t offset, uint64_t length)
{
    static const uint8_t zeros[ZEROS_BYTES];
    int wrong = ask(witness, FTVM_BLOCKFILE_ZERO, offset, length, NULL);
    if (wrong != 0)
        return wrong;
    static const int ways[] = {FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE}; /* of a block device, to unmap it, or not */
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        if (fallocate(image, ways[i] | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length) == 0)
            return 0;
    while (length > 0 && wrong == 0) { /* a file system without holes */
        uint64_t part = length < sizeof zeros ? length : sizeof zeros;
        wrong = ftvm_blockfile_write(image, -1, offset, part, zeros);
        offset += part;
        length -= part;
    }
    return wrong;
}

int ftvm_blockfile_is_hole(int image, uint64_t offset, uint64_t length)
{
    off_t data = lseek(image, (off_t)offset, SEEK_DATA);
    return data < 0 ? errno == ENXIO : (uint64_t)data >= offset + length;
}

int ftvm_blockfile_sync(int image, int witness)
{
    int wrong = ask(witness, FTVM_BLOCKFILE_SYNC, 0, 0, NULL);
    return wrong != 0 || fdatasync(image) == 0 ? wrong : -errno;
}

int64_t ftvm_blockfile_birth(int image)
{
    struct statx found;
    if (statx(image, "", AT_EMPTY_PATH, STATX_BTIME, &found) != 0 || !(found.stx_mask & STATX_BTIME))
        return 0;
    return (int64_t)found.stx_btime.tv_sec * 1000000000 + (int64_t)found.stx_btime.tv_nsec;
}
