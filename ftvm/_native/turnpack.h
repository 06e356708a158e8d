/* turnpack: the rows of a turn (turn.h) as a table of a log (logtable.h), and what was said in them as columns. */
#ifndef FTVM_TURNPACK_H
#define FTVM_TURNPACK_H

#include "turn.h"

enum { TURN_ROW_HEADER = 40 }; /* before a row's payload */

#define TURN_ROWS_BYTES (1 << 20) /* the most that the rows of one turn take */
#define TURN_ROWS_MAX (TURN_ROWS_BYTES / TURN_ROW_HEADER)

/* Room for all that so many rows can hold. */
typedef struct {
    uint8_t table[TURN_ROWS_MAX * FTVM_LOGTABLE_ROW], inputs[TURN_ROWS_BYTES], said[TURN_ROWS_BYTES];
    uint8_t spoken[TURN_ROWS_MAX * FTVM_TURN_SPOKEN_ROW];
} turnpack_tables;

/* Packs whole rows, at most TURN_ROWS_BYTES of them; `output_next` is the number of the first output among them. What
 * `packed` points to lies in `tables`. */
void turnpack_rows(turnpack_tables *tables, const uint8_t *rows, size_t length, uint64_t output_next,
                   ftvm_turn_packed *packed);

/* Packs the row of an output, the one at that place; its channel is numbered among `voices`, of which `voice_count` have a
 * number, and one more if it is new. */
void turnpack_spoken(uint8_t *spoken, size_t place, uint32_t channel, uint32_t length, uint8_t *voices,
                     size_t *voice_count);

#endif
