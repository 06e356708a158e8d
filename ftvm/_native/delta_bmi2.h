/* delta_bmi2: masks in and out of a line body with pext and pdep. Internal; for variants compiled with BMI2. */
#ifndef FTVM_DELTA_BMI2_H
#define FTVM_DELTA_BMI2_H

#include "delta_form.h"

#include <immintrin.h>

/* A body in parts at its longest: word mask, eight byte masks, all bytes. */
#define PARTS_BYTES_MAX (1 + 8 + FTVM_LINE_BYTES)

/* Bit i of a byte to byte i of a word, all ones. */
static inline uint64_t byte_mask_expand(uint64_t bits)
{
    return _pdep_u64(bits, FTVM_LOW_BITS) * 0xFF;
}

/* Reads the word mask and the byte masks; PARTS_BYTES_MAX bytes must be readable at `in`.
 *
 * difference  out: bit i stands for byte i of the line
 * Returns where the bytes begin, all of which then lie before `end`; NULL if the masks are no masks, or the bytes
 * do not. */
static inline const uint8_t *parts_header_take(const uint8_t *in, const uint8_t *end, uint64_t *difference)
{
    uint64_t words = _pdep_u64(*in, FTVM_LOW_BITS);
    uint64_t bytes = _pdep_u64(ftvm_load64(in + 1), words * 0xFF);
    long header = 1 + __builtin_popcount(*in);
    *difference = bytes;
    if (ftvm_words_of(bytes) != words || end - in < header + __builtin_popcountll(bytes))
        return NULL;
    return in + header;
}

#endif
