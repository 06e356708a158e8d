#include "delta.h"

extern const struct ftvm_delta_codec ftvm_delta_scalar;

const struct ftvm_delta_codec *ftvm_delta_codec(size_t number)
{
    return number == 0 ? &ftvm_delta_scalar : NULL;
}

size_t ftvm_delta_encode(const uint8_t *restrict page, uint8_t *restrict base, uint8_t *restrict out)
{
    return ftvm_delta_scalar.encode(page, base, out);
}

int ftvm_delta_decode(const uint8_t *restrict delta, size_t length, uint8_t *restrict page)
{
    return ftvm_delta_scalar.decode(delta, length, 0, page);
}

int ftvm_delta_decode_within(const uint8_t *restrict delta, size_t length, size_t slack, uint8_t *restrict page)
{
    return ftvm_delta_scalar.decode(delta, length, slack, page);
}
