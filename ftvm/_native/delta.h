/* delta: one 4096-byte page as its difference from an older version of itself.
 *
 * A delta carries the new bytes, not their XOR with the old ones: applying it twice does no harm, and the encoder can
 * bring the older version up to date in the same pass. Both sides hold the same older version (the base); who applies
 * a delta to another base gets garbage, which the memory digest finds (digest.h).
 *
 * The format
 * ----------
 * A page is 64 lines of 64 bytes; a line is 8 words of 8 bytes. Numbers are little-endian. Bit i of a mask stands for
 * line i of the page, word i of the line, byte i of the word. A page that does not differ has no delta at all. Else
 * one tag byte says which form follows:
 *
 *     ZERO    | 0x00 |                                          the page is all zero
 *
 *     SPARSE  | 0x01..0x0F: n |  n times | entry |               entries rise; none overlaps the one before it
 *
 *       entry, in one word:   | ref u16 |  bytes |
 *               ref   15   14..6      5..3         2..0
 *                    | 0 | word   | first byte | length - 1 |    word 0..511; first byte + length <= 8
 *       entry, a run:         | ref u16 | length - 1, u8 |  bytes |
 *               ref   15   14..0
 *                    | 1 | first byte of the page |              first byte + length <= 4096
 *       bytes: all new bytes of that span, those between changed ones included.
 *
 *     LIST    | 0x11..0x17: 0x10 + n |  n line numbers, u8 each, rising strictly |  n line bodies |    at most 7 lines
 *
 *     MASK    | 0x20 |  line mask u64, not 0 |  one line body per bit, from bit 0 on |    any number of lines
 *
 *     RAW     | 0x30 |  4096 bytes |                            no other form is shorter
 *
 *     line body, whole:    | 0x00 | 64 bytes |
 *     line body, parts:    | word mask u8, not 0 |  a byte mask u8 per word, not 0 |  the bytes of all masks |
 *
 * Which form: ZERO if the page is zero. Else, if at most 15 lines and 32 words differ, SPARSE, unless it takes more
 * than 15 entries, or more bytes than the other form in parts would (tag, line numbers or mask, word and byte masks,
 * changed bytes). Else LIST up to 7 lines, MASK above, and RAW instead of a MASK of 4097 bytes or more.
 * A SPARSE entry is the span from the first to the last changed byte of one word. It is joined with that of the word
 * before, to a run, if the two spans touch, or if that one is a run already and one byte lies between. A line is
 * sent whole if that is no longer than its parts (byte masks and bytes together 64 or more).
 * Every encoder follows this, so that all give the same bytes. A decoder refuses anything that the drawing does not
 * allow, bytes after the end included; it takes forms that are longer than need be.
 *
 * One scalar pair is the reference; faster ones for certain CPUs give and take exactly the same bytes, and are chosen
 * once, at the first use. Nothing here allocates; all functions are safe on different memory from several threads.
 */
#ifndef FTVM_DELTA_H
#define FTVM_DELTA_H

#include "memory.h"

/* No delta is longer. */
#define FTVM_DELTA_BYTES_MAX (1 + FTVM_PAGE_BYTES)

/* What an encoder may scribble over before it knows how long the delta is: `out` must have this much room. */
#define FTVM_DELTA_ROOM_BYTES 4352

/* Encodes how `page` differs from `base`, and makes `base` equal to it.
 *
 * page  4096 bytes; must not change meanwhile
 * base  4096 bytes, the older version; equals `page` afterwards. Lines that do not differ are not written
 * out   room for FTVM_DELTA_ROOM_BYTES
 * Returns the length of the delta, 1 to FTVM_DELTA_BYTES_MAX, or 0 if the two are equal. */
size_t ftvm_delta_encode(const uint8_t *restrict page, uint8_t *restrict base, uint8_t *restrict out);

/* Applies a delta. Safe on any bytes: reads nothing outside `delta` and writes nothing outside the page.
 *
 * delta    `length` bytes from anywhere
 * page     4096 bytes, the older version; the newer one afterwards
 * Returns 0, or -1 if the bytes are no delta: the page is then partly written. */
int ftvm_delta_decode(const uint8_t *restrict delta, size_t length, uint8_t *restrict page);

/* One implementation of the format. `encode` and `decode` are as above, but for `slack`: so many bytes behind the
 * delta may be read too (they do not change the result), which saves a fast decoder its care at the end of each of
 * many deltas. */
struct ftvm_delta_codec {
    const char *name;
    size_t (*encode)(const uint8_t *restrict page, uint8_t *restrict base, uint8_t *restrict out);
    int (*decode)(const uint8_t *restrict delta, size_t length, size_t slack, uint8_t *restrict page);
};

/* Returns codec number `number` of those that this machine can run, NULL past the last. Number 0 is the scalar
 * reference; the last is the one in use. */
const struct ftvm_delta_codec *ftvm_delta_codec(size_t number);

/* Returns the codec in use; for loops over many pages. */
const struct ftvm_delta_codec *ftvm_delta_best(void);

#endif
