/* The reference: plain C, no assumption about the CPU. The other variants must give and take the same bytes. */
#include "delta_form.h"

#define FTVM_DELTA_VARIANT ftvm_delta_scalar
#define FTVM_DELTA_VARIANT_NAME "scalar"

static uint64_t line_difference(const uint8_t *a, const uint8_t *b)
{
    uint64_t bytes = 0;
    for (unsigned word = 0; word < 8; word++) {
        uint64_t differing = ftvm_words_of(ftvm_load64(a + word * 8) ^ ftvm_load64(b + word * 8));
        bytes |= (uint64_t)ftvm_low_bits_to_mask(differing) << (word * 8);
    }
    return bytes;
}

static void line_copy(uint8_t *to, const uint8_t *from)
{
    memcpy(to, from, FTVM_LINE_BYTES);
}

static uint8_t *line_put_parts(uint8_t *out, const uint8_t *line, uint64_t difference)
{
    *out++ = ftvm_low_bits_to_mask(ftvm_words_of(difference));
    for (unsigned word = 0; word < 8; word++) {
        uint8_t mask = (uint8_t)(difference >> (word * 8));
        if (mask != 0)
            *out++ = mask;
    }
    for (; difference != 0; difference &= difference - 1)
        *out++ = line[__builtin_ctzll(difference)];
    return out;
}

static const uint8_t *line_take_parts(const uint8_t *in, const uint8_t *end, const uint8_t *readable, uint8_t *line)
{
    (void)readable;
    unsigned words = *in++;
    uint64_t bytes = 0;
    for (; words != 0; words &= words - 1) {
        if (in == end || *in == 0)
            return NULL;
        bytes |= (uint64_t)*in++ << (__builtin_ctz(words) * 8);
    }
    if (end - in < __builtin_popcountll(bytes))
        return NULL;
    for (; bytes != 0; bytes &= bytes - 1)
        line[__builtin_ctzll(bytes)] = *in++;
    return in;
}

#include "delta_body.h"
