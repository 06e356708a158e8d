/* delta_form: the constants of the page delta format and the small steps that all its codecs share. Internal. */
#ifndef FTVM_DELTA_FORM_H
#define FTVM_DELTA_FORM_H

#include "delta.h"
#include "page.h"

#define FTVM_DELTA_ZERO 0x00
#define FTVM_DELTA_LIST 0x10 /* plus the number of lines */
#define FTVM_DELTA_MASK 0x20
#define FTVM_DELTA_RAW 0x30
#define FTVM_DELTA_WHOLE_LINE 0x00

#define FTVM_DELTA_SPARSE_MAX 15       /* entries */
#define FTVM_DELTA_SPARSE_LINES_MAX 15 /* lines and words for which SPARSE is tried */
#define FTVM_DELTA_SPARSE_WORDS_MAX 32
#define FTVM_DELTA_RUN 0x8000u
#define FTVM_DELTA_LIST_MAX 7  /* lines */

#define FTVM_LOW_BITS UINT64_C(0x0101010101010101)

/* The lowest bit of each byte of `mask` that is not 0. */
static inline uint64_t ftvm_words_of(uint64_t mask)
{
    mask |= mask >> 4 & UINT64_C(0x0F0F0F0F0F0F0F0F);
    mask |= mask >> 2 & UINT64_C(0x3F3F3F3F3F3F3F3F);
    mask |= mask >> 1 & UINT64_C(0x7F7F7F7F7F7F7F7F);
    return mask & FTVM_LOW_BITS;
}

/* Gathers the lowest bits of eight bytes into one byte. */
static inline uint8_t ftvm_low_bits_to_mask(uint64_t low_bits)
{
    return (uint8_t)(low_bits * UINT64_C(0x0102040810204080) >> 56);
}

static inline size_t ftvm_raw_put(uint8_t *out, const uint8_t *page)
{
    *out = FTVM_DELTA_RAW;
    memcpy(out + 1, page, FTVM_PAGE_BYTES);
    return FTVM_DELTA_BYTES_MAX;
}

/* A line body in parts, in plain C: the reference, and what the fast variants fall back to near the end of a buffer. */
static inline uint8_t *ftvm_parts_put(uint8_t *out, const uint8_t *line, uint64_t difference)
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

static inline const uint8_t *ftvm_parts_take(const uint8_t *in, const uint8_t *end, uint8_t *line)
{
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

/* Puts `length` (1 to 8) bytes into a word from byte `first` on, first + length <= 8. Eight bytes are read where they
 * may be: one load, one store and no loop. */
static inline void ftvm_word_take(uint8_t *word, unsigned first, unsigned length, const uint8_t *from,
                                  const uint8_t *readable)
{
    if (readable - from < 8) {
        memcpy(word + first, from, length);
        return;
    }
    uint64_t mask = ~UINT64_C(0) >> (64 - 8 * length) << (8 * first);
    uint64_t fresh = ftvm_load64(from) << (8 * first);
    ftvm_store64(word, (ftvm_load64(word) & ~mask) | (fresh & mask));
}

#endif
