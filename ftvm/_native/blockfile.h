/* blockfile: reading and changing an image file, whole requests at a time, under the eyes of a witness if there is one.
 *
 * A witness is for tests: a socket that is told of each change before it is made, and decides about it. It is sent
 * struct ftvm_blockfile_told, and behind it the content of a write; it answers with a byte: 0, or the errno to fail with.
 * Without one (-1), nobody is asked. All functions return 0 or a negative errno, and may have done a part then.
 */
#ifndef FTVM_BLOCKFILE_H
#define FTVM_BLOCKFILE_H

#include <stdint.h>

enum ftvm_blockfile_change { FTVM_BLOCKFILE_WRITE = 1, FTVM_BLOCKFILE_ZERO = 2, FTVM_BLOCKFILE_SYNC = 3 };

struct ftvm_blockfile_told {
    uint32_t change;
    uint32_t length;
    uint64_t offset;
};

/* Reads; -EIO where the file is shorter. */
int ftvm_blockfile_read(int image, uint64_t offset, uint64_t length, uint8_t *out);

int ftvm_blockfile_write(int image, int witness, uint64_t offset, uint64_t length, const uint8_t *content);

/* Makes bytes zero, by a hole where the file system has holes. */
int ftvm_blockfile_zero(int image, int witness, uint64_t offset, uint64_t length);

/* Tells whether the file has no data in a range: it reads as zeros, and takes no room. 0 where that is not known. */
int ftvm_blockfile_is_hole(int image, uint64_t offset, uint64_t length);

/* Returns when the device has all that was written. */
int ftvm_blockfile_sync(int image, int witness);

/* Returns when the file was made, in nanoseconds since 1970, or 0 where the file system does not keep that. */
int64_t ftvm_blockfile_birth(int image);

#endif
