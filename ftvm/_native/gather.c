#include "gather.h"

#include "page.h"

#if defined(__SSE2__)
#include <emmintrin.h>

/* From this many pages on (a second-level cache's worth), what is copied will not be in cache when it is read again,
 * and stores that go around the cache save reading the target first. */
#define STREAM_PAGES_MIN 128

/* Stores around the cache; `to` is aligned to 16 bytes. */
static void page_stream(uint8_t *restrict to, const uint8_t *restrict from)
{
    for (size_t at = 0; at < FTVM_PAGE_BYTES; at += FTVM_LINE_BYTES) {
        for (size_t part = 0; part < FTVM_LINE_BYTES; part += 16) {
            __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(from + at + part));
            _mm_stream_si128((__m128i *)(void *)(to + at + part), bytes);
        }
    }
}

static int streaming_pays(const uint8_t *staging, size_t count)
{
    return count >= STREAM_PAGES_MIN && (uintptr_t)staging % 16 == 0;
}

static void stream_finish(void)
{
    _mm_sfence();
}
#else
static void page_stream(uint8_t *restrict to, const uint8_t *restrict from)
{
    memcpy(to, from, FTVM_PAGE_BYTES);
}

static int streaming_pays(const uint8_t *staging, size_t count)
{
    (void)staging;
    (void)count;
    return 0;
}

static void stream_finish(void) {}
#endif

void ftvm_gather_pages(const struct ftvm_memory *memory, const uint32_t *indices, size_t count,
                       uint8_t *restrict staging)
{
    int is_streaming = streaming_pays(staging, count);
    uint32_t cursor = 0;
    uint32_t ahead = 0;
    for (size_t i = 0; i < count; i++) {
        if (i + 1 < count)
            ftvm_page_prefetch(ftvm_memory_page(memory, indices[i + 1], &ahead));
        const uint8_t *page = ftvm_memory_page(memory, indices[i], &cursor);
        if (is_streaming)
            page_stream(staging + i * FTVM_PAGE_BYTES, page);
        else
            memcpy(staging + i * FTVM_PAGE_BYTES, page, FTVM_PAGE_BYTES);
    }
    if (is_streaming)
        stream_finish();
}
