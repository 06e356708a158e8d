#include "delta.h"

#include "cpu.h"

extern const struct ftvm_delta_codec ftvm_delta_scalar;
#if defined(__x86_64__)
extern const struct ftvm_delta_codec ftvm_delta_sse2;
extern const struct ftvm_delta_codec ftvm_delta_avx2;
extern const struct ftvm_delta_codec ftvm_delta_avx512;
#endif

/* By the CPU level that each needs, which rises. */
static const struct ftvm_delta_codec *const CODECS[] = {
    &ftvm_delta_scalar,
#if defined(__x86_64__)
    &ftvm_delta_sse2,
    &ftvm_delta_avx2,
    &ftvm_delta_avx512,
#endif
};

const struct ftvm_delta_codec *ftvm_delta_codec(size_t number)
{
    return number <= (size_t)ftvm_cpu_level() ? CODECS[number] : NULL;
}

const struct ftvm_delta_codec *ftvm_delta_best(void)
{
    return CODECS[ftvm_cpu_level()];
}

size_t ftvm_delta_encode(const uint8_t *restrict page, uint8_t *restrict base, uint8_t *restrict out)
{
    return ftvm_delta_best()->encode(page, base, out);
}

int ftvm_delta_decode(const uint8_t *restrict delta, size_t length, uint8_t *restrict page)
{
    return ftvm_delta_best()->decode(delta, length, 0, page);
}
