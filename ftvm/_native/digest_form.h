/* digest_form: the numbers of XXH3 that all variants share. Internal. Specification: doc/xxhash_spec.md of
 * Cyan4973/xxHash. */
#ifndef FTVM_DIGEST_FORM_H
#define FTVM_DIGEST_FORM_H

#include "digest.h"
#include "page.h"

/* XXH3 reads its input in stripes of 64 bytes. Each stripe meets a window of the secret that moves on by 8 bytes; when
 * the secret is used up (16 stripes: a block), the accumulators are scrambled and the window starts again. */
#define FTVM_SECRET_BYTES 192
#define FTVM_STRIPE_BYTES 64
#define FTVM_BLOCK_BYTES ((FTVM_SECRET_BYTES - FTVM_STRIPE_BYTES) / 8 * FTVM_STRIPE_BYTES)
#define FTVM_LANES 8
#define FTVM_LAST_STRIPE_OFFSET 7

#define FTVM_PRIME32_1 UINT64_C(0x9E3779B1)

/* What a page makes of the accumulators: `lanes` in and out, `secret` derived from the seed. */
typedef void ftvm_digest_accumulate(uint64_t *restrict lanes, const uint8_t *restrict page,
                                    const uint8_t *restrict secret);

#endif
