/* checksum: the Internet checksum: the ones' complement of the ones' complement sum of 16-bit words.
 *
 * Source: RFC 1071.
 */
#ifndef CHECKSUM_H
#define CHECKSUM_H

#include "bytes.h"

/* Adds a span to a sum (0 at first). An odd last byte counts as if a zero followed, so only the last span may be odd.
 * Spans of up to 64 KiB each, 64 KiB of them: the sum is folded each time. */
uint32_t checksum_add(uint32_t sum, struct span span);

/* The checksum to put into a header. Over data that holds a right checksum it is 0. */
uint16_t checksum_finish(uint32_t sum);

#endif
