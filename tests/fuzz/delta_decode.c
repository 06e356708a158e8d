/* Any bytes into every delta decoder: none may read or write outside, and all must agree with the scalar one. */
#include "delta.h"

#include <stdlib.h>
#include <string.h>

/* Pages on the heap, so that the address sanitizer sees a write outside. */
static uint8_t *page_new(void)
{
    uint8_t *page = malloc(FTVM_PAGE_BYTES);
    for (size_t i = 0; i < FTVM_PAGE_BYTES; i++)
        page[i] = (uint8_t)(i * 7);
    return page;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* The first byte says how much of the rest is slack: readable, but not part of the delta. */
    if (size < 1)
        return 0;
    size_t slack = data[0] < size - 1 ? data[0] : size - 1;
    size_t length = size - 1 - slack;
    uint8_t *expected = page_new();
    int verdict = ftvm_delta_codec(0)->decode(data + 1, length, slack, expected);
    const struct ftvm_delta_codec *codec;
    for (size_t number = 1; (codec = ftvm_delta_codec(number)) != NULL; number++) {
        uint8_t *page = page_new();
        if (codec->decode(data + 1, length, slack, page) != verdict)
            abort();
        if (verdict == 0 && memcmp(page, expected, FTVM_PAGE_BYTES) != 0)
            abort();
        free(page);
    }
    free(expected);
    return 0;
}
