/* follow: leads the built-in machine along a log of what another one did, many records by one call.
 *
 * The records are a table of logtable.h. A record is taken where the machine does at its position what it says: takes all of
 * an input, lets its clock go on, or has made that output there and nowhere else. The first one that is not as it
 * should be is left, and nothing of it is done: who asks for it alone learns why.
 *
 * Memory and threads as in riscv.h. */
#ifndef FTVM_FOLLOW_H
#define FTVM_FOLLOW_H

#include "logtable.h"
#include "turn.h"

#define FTVM_FOLLOW_OUTPUTS_MAX 2048 /* of one call */

typedef struct {
    uint64_t made;         /* how many outputs the machine had made before the call, and has made now */
    uint64_t first_here;   /* the first of them that was made at the machine's position; made + 1 if none was */
    uint64_t instructions; /* how many more may be begun; what is left of them */
    /* set: the outputs of the call, as columns like those of ftvm_turn_packed; `said` stays until the machine runs again */
    const uint8_t *said, *spoken;
    size_t outputs, said_bytes;
    uint8_t voices[4];
    size_t voice_count;
    uint8_t rows[FTVM_FOLLOW_OUTPUTS_MAX * FTVM_TURN_SPOKEN_ROW]; /* what `spoken` points to */
} ftvm_follow_course;

/* A table, and which channel of the machine (turn.h) each of its numbers means; 255: none. */
typedef struct {
    const uint8_t *rows, *payloads; /* the payloads of the records, one behind the other */
    size_t count, payload_bytes;
    uint8_t channels[256];
} ftvm_follow_log;

/* Runs the machine along a table, each record at its position, until all are taken, so many instructions are
 * begun, the outputs are many, or the next record is not as it should be. Ends between two instructions.
 *
 * The outputs of before are drained; those of the call are in the course, and nowhere else.
 * Returns how many records were taken. */
size_t ftvm_follow(ftvm_riscv *machine, const ftvm_follow_log *log, ftvm_follow_course *course);

#endif
