/* page: what every noun needs to do with one page or one word of it. Internal; no Python face. */
#ifndef FTVM_PAGE_H
#define FTVM_PAGE_H

#include "memory.h"

#include <string.h>

#define FTVM_LINE_BYTES 64
#define FTVM_LINE_COUNT (FTVM_PAGE_BYTES / FTVM_LINE_BYTES)

/* Unaligned loads and stores of little-endian words. The wire format is little-endian, and so is every machine that
 * this builds for. */
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ftvm's page codec needs a little-endian machine"
#endif

static inline uint64_t ftvm_load64(const uint8_t *from)
{
    uint64_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

static inline void ftvm_store64(uint8_t *to, uint64_t word)
{
    memcpy(to, &word, sizeof word);
}

/* Asks for the start of a page that will be read soon. The hardware finds the rest of it by itself, but it does not
 * look across the edge of a page: in a list of scattered pages the first lines of each are otherwise waited for. */
static inline void ftvm_page_prefetch(const uint8_t *page)
{
    for (size_t line = 0; line < 8 * FTVM_LINE_BYTES; line += FTVM_LINE_BYTES)
        __builtin_prefetch(page + line);
}

static inline int ftvm_line_is_zero(const uint8_t *line)
{
    uint64_t any = 0;
    for (size_t word = 0; word < FTVM_LINE_BYTES; word += 8)
        any |= ftvm_load64(line + word);
    return any == 0;
}

/* Tells whether all 4096 bytes are zero. Leaves at the first line that is not: most pages that are not zero say so
 * early. */
static inline int ftvm_page_is_zero(const uint8_t *page)
{
    for (size_t line = 0; line < FTVM_PAGE_BYTES; line += FTVM_LINE_BYTES)
        if (!ftvm_line_is_zero(page + line))
            return 0;
    return 1;
}

#endif
