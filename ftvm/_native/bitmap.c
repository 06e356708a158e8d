#include "bitmap.h"

#include <string.h>

/* The bits of word `word` that stand for pages below `page_count`. */
static uint64_t valid_bits(size_t word, size_t page_count)
{
    size_t below = page_count - word * 64;
    return below >= 64 ? ~UINT64_C(0) : (UINT64_C(1) << below) - 1;
}

size_t ftvm_bitmap_indices(const uint64_t *words, size_t page_count, uint32_t first_index, uint32_t *restrict indices,
                           size_t capacity)
{
    size_t found = 0;
    for (size_t word = 0; word * 64 < page_count; word++) {
        if (word % 8 == 0 && (word + 8) * 64 <= page_count &&
            (words[word] | words[word + 1] | words[word + 2] | words[word + 3] | words[word + 4] | words[word + 5] |
             words[word + 6] | words[word + 7]) == 0) { /* most of a large disk is not written */
            word += 7;
            continue;
        }
        uint64_t rest = words[word] & valid_bits(word, page_count);
        while (rest != 0) {
            uint32_t index = first_index + (uint32_t)(word * 64) + (uint32_t)__builtin_ctzll(rest);
            if (found < capacity)
                indices[found] = index;
            found++;
            rest &= rest - 1;
        }
    }
    return found;
}

/* Eight flags at once: most pages are clean, so most loads are all zero. */
static uint64_t flags_to_byte(const uint8_t *flags)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < 8; i++)
        bits |= (uint64_t)(flags[i] != 0) << i;
    return bits;
}

size_t ftvm_bitmap_take_flags(uint8_t *restrict flags, size_t page_count, uint64_t *restrict words)
{
    size_t found = 0;
    memset(words, 0, (page_count + 63) / 64 * sizeof *words);
    size_t page = 0;
    for (; page + 8 <= page_count; page += 8) {
        uint64_t eight;
        memcpy(&eight, flags + page, sizeof eight);
        if (eight == 0)
            continue;
        uint64_t bits = flags_to_byte(flags + page);
        words[page / 64] |= bits << (page % 64);
        found += (size_t)__builtin_popcountll(bits);
        memset(flags + page, 0, sizeof eight);
    }
    for (; page < page_count; page++) {
        if (flags[page] == 0)
            continue;
        words[page / 64] |= UINT64_C(1) << (page % 64);
        flags[page] = 0;
        found++;
    }
    return found;
}

size_t ftvm_bitmap_take_parts(uint8_t *restrict flags, uint8_t *restrict parts, size_t page_count,
                              uint64_t *restrict words)
{
    size_t found = 0;
    for (size_t first = 0; first < page_count; first += FTVM_BITMAP_PART_PAGES) {
        size_t left = page_count - first;
        if (!parts[first / FTVM_BITMAP_PART_PAGES])
            continue;
        parts[first / FTVM_BITMAP_PART_PAGES] = 0;
        found += ftvm_bitmap_take_flags(flags + first, left < FTVM_BITMAP_PART_PAGES ? left : FTVM_BITMAP_PART_PAGES,
                                        words + first / 64);
    }
    return found;
}

void ftvm_bitmap_put_flags(const uint64_t *restrict words, size_t page_count, uint8_t *restrict flags)
{
    for (size_t word = 0; word * 64 < page_count; word++) {
        uint64_t rest = words[word] & valid_bits(word, page_count);
        for (; rest != 0; rest &= rest - 1)
            flags[word * 64 + (size_t)__builtin_ctzll(rest)] = 1;
    }
}
