/* logtable: log records as they travel (docs/wire.md, "What builds up the state"): rows of fixed width, and the payloads one behind the other.
 *
 *   u8 kind, u8 channel, u64 retired, u64 idled, u64 amount, u32 bytes of payload; little-endian, nothing between
 *
 * Kinds: an input; a step of the waiting clock by so much; an output, whose number is the amount. */
#ifndef FTVM_LOGTABLE_H
#define FTVM_LOGTABLE_H

#include <stddef.h>
#include <stdint.h>

#define FTVM_LOGTABLE_ROW 30

enum { FTVM_LOGTABLE_INPUT = 1, FTVM_LOGTABLE_CLOCK = 2, FTVM_LOGTABLE_OUTPUT = 3 };

/* Looks through a table that somebody else made.
 *
 * rows      `count` of them
 * channels  how many channels have a name
 * bytes     of all payloads
 * left      is set to how many of them no row before the place that is returned uses
 * Returns the place of the first row whose kind or channel does not exist, or whose payload is longer than what is left;
 * `count` if all of them can be. */
size_t ftvm_logtable_check(const uint8_t *rows, size_t count, size_t channels, size_t bytes, size_t *left);

#endif
