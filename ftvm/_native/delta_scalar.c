/* The reference: plain C, no assumption about the CPU. The other variants must give and take the same bytes. */
#include "delta_form.h"

#define FTVM_DELTA_VARIANT ftvm_delta_scalar
#define FTVM_DELTA_VARIANT_NAME "scalar"

static inline int group_differs(const uint8_t *a, const uint8_t *b)
{
    uint64_t any = 0;
    for (size_t at = 0; at < 256; at += 8)
        any |= ftvm_load64(a + at) ^ ftvm_load64(b + at);
    return any != 0;
}

static inline uint64_t line_difference(const uint8_t *a, const uint8_t *b)
{
    uint64_t bytes = 0;
    for (unsigned word = 0; word < 8; word++) {
        uint64_t differing = ftvm_words_of(ftvm_load64(a + word * 8) ^ ftvm_load64(b + word * 8));
        bytes |= (uint64_t)ftvm_low_bits_to_mask(differing) << (word * 8);
    }
    return bytes;
}

static inline void line_copy(uint8_t *to, const uint8_t *from)
{
    memcpy(to, from, FTVM_LINE_BYTES);
}

static inline uint8_t *line_put_parts(uint8_t *out, const uint8_t *line, uint64_t difference)
{
    return ftvm_parts_put(out, line, difference);
}

static inline const uint8_t *line_take_parts(const uint8_t *in, const uint8_t *end, const uint8_t *readable,
                                             uint8_t *line)
{
    (void)readable;
    return ftvm_parts_take(in, end, line);
}

#include "delta_body.h"
