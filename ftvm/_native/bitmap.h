/* bitmap: sets of page indices, one bit a page.
 *
 * A bitmap of n pages is (n + 63) / 64 little-endian 64-bit words; page i is bit i % 64 of word i / 64. Bits at and
 * above n are zero; functions that build a bitmap keep it so, functions that read one ignore them.
 *
 * Nothing here allocates; the caller owns all memory. All functions are safe to call from several threads on different
 * memory. Python mirrors the layout in ftvm/checkpoint.py (Bitmap).
 */
#ifndef FTVM_BITMAP_H
#define FTVM_BITMAP_H

#include <stddef.h>
#include <stdint.h>

/* Writes the indices of the set bits, each plus `first_index`, in rising order.
 *
 * words       bitmap of `page_count` pages
 * indices     room for `capacity` entries
 * first_index added to each index: where the region starts in the guest's page numbering
 * Returns how many bits are set. If that is more than `capacity`, only the first `capacity` entries were written. */
size_t ftvm_bitmap_indices(const uint64_t *words, size_t page_count, uint32_t first_index, uint32_t *restrict indices,
                           size_t capacity);

/* Turns a byte per page into a bitmap and clears the bytes: page i is set if flags[i] != 0.
 *
 * flags  `page_count` bytes; all zero afterwards
 * words  (page_count + 63) / 64 words, overwritten
 * Returns how many pages were set. */
size_t ftvm_bitmap_take_flags(uint8_t *restrict flags, size_t page_count, uint64_t *restrict words);

/* The same where few flags are set: only parts of FTVM_BITMAP_PART_PAGES pages are looked at that say so.
 *
 * parts  a byte a part, rounded up: not 0 if a flag of it may be set; all zero afterwards
 * words  all zero; only words of those parts are written */
#define FTVM_BITMAP_PART_PAGES 4096
size_t ftvm_bitmap_take_parts(uint8_t *restrict flags, uint8_t *restrict parts, size_t page_count,
                              uint64_t *restrict words);

/* The reverse, adding: sets flags[i] to 1 for each bit i that is set, touches no other flag. */
void ftvm_bitmap_put_flags(const uint64_t *restrict words, size_t page_count, uint8_t *restrict flags);

#endif
