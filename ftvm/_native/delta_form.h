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

#define FTVM_DELTA_SPARSE_MAX 8 /* words */
#define FTVM_DELTA_LIST_MAX 7   /* lines */

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

/* Copies 1 to 8 bytes without a call. The word that is loaded instead must not reach past `readable`. */
static inline void ftvm_bytes_copy_short(uint8_t *to, const uint8_t *from, unsigned count, const uint8_t *readable)
{
    (void)readable;
    for (unsigned i = 0; i < count; i++)
        to[i] = from[i];
}

#endif
