/* Page pairs made from any bytes through every codec: all give the same delta, and it gives the page back. */
#include "delta.h"

#include <stdlib.h>
#include <string.h>

/* The input is a list of patches: two bytes of offset, one of length, one of value, laid over two equal pages. */
static void pages_make(const uint8_t *data, size_t size, uint8_t *older, uint8_t *newer)
{
    for (size_t i = 0; i < FTVM_PAGE_BYTES; i++)
        older[i] = size != 0 && data[0] % 2 != 0 ? (uint8_t)(i * 11) : 0;
    memcpy(newer, older, FTVM_PAGE_BYTES);
    for (size_t at = 1; at + 4 <= size; at += 4) {
        size_t offset = (data[at] | (size_t)data[at + 1] << 8) % FTVM_PAGE_BYTES;
        size_t length = (size_t)data[at + 2] * (data[at + 2] > 200 ? 16 : 1) % (FTVM_PAGE_BYTES - offset + 1);
        for (size_t i = 0; i < length; i++)
            newer[offset + i] ^= (uint8_t)(data[at + 3] + i * (data[at + 3] & 1));
    }
    if (size != 0 && data[0] % 16 == 6)
        memset(newer, 0, FTVM_PAGE_BYTES);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *older = malloc(FTVM_PAGE_BYTES), *newer = malloc(FTVM_PAGE_BYTES), *page = malloc(FTVM_PAGE_BYTES);
    uint8_t *expected = malloc(FTVM_DELTA_ROOM_BYTES), *out = malloc(FTVM_DELTA_ROOM_BYTES);
    size_t expected_length = 0;
    const struct ftvm_delta_codec *codec;
    pages_make(data, size, older, newer);
    for (size_t number = 0; (codec = ftvm_delta_codec(number)) != NULL; number++) {
        memcpy(page, older, FTVM_PAGE_BYTES);
        size_t length = codec->encode(newer, page, out);
        if (length > FTVM_DELTA_BYTES_MAX || memcmp(page, newer, FTVM_PAGE_BYTES) != 0)
            abort();
        if (number == 0) {
            expected_length = length;
            memcpy(expected, out, length);
        } else if (length != expected_length || memcmp(out, expected, length) != 0) {
            abort();
        }
        if (length == 0)
            continue;
        memcpy(page, older, FTVM_PAGE_BYTES);
        if (codec->decode(out, length, 0, page) != 0 || memcmp(page, newer, FTVM_PAGE_BYTES) != 0)
            abort();
    }
    free(older), free(newer), free(page), free(expected), free(out);
    return 0;
}
