/* turn: the thread of a built-in machine: it waits, takes inputs, runs, lets time pass, and notes all of that in rows.
 *
 * One thread calls ftvm_turn_go again and again; a call returns when there is something to hand on, and does all else
 * without anybody: a frame that comes while the hart waits is taken, served and answered in one call. Other threads
 * ask by the other functions, at any time; a lock lies between them, held for no longer than it takes to copy. Who gives
 * inputs may borrow the machine while its thread rests, and have the answer without a change of threads.
 *
 * Outputs are handed on together: what the machine says until its hart waits, or for so many instructions that nobody
 * notices, comes with one return.
 *
 * Rows. What the machine's future depends on, and what it said, in order; each with the position at which it happened:
 *
 *   u32 kind, u32 channel, u64 retired, u64 idled, u64 ticks (FTVM_TURN_CLOCK), u32 bytes, u32 zero, the payload,
 *   padded to a multiple of 8 bytes; little-endian
 *
 * An input has its row at the position where it was taken, before what it led to. A machine that is given the same
 * inputs and ticks at the same positions makes the same outputs at the same positions: turns leave no other trace.
 *
 * Time. While the hart waits, the machine's time goes as CLOCK_MONOTONIC does, ticks_per_second; while it computes, it
 * is counted in instructions. Where it computed faster than that, a wait still takes as long as it says. */
#ifndef FTVM_TURN_H
#define FTVM_TURN_H

#include "logtable.h"
#include "riscv.h"

#define FTVM_TURN_FRAMES_MAX 1024            /* inputs that wait for the machine; more are dropped */
#define FTVM_TURN_CONSOLE_MAX 65536          /* in bytes */
#define FTVM_TURN_ENTROPY_MAX 4096           /* the most that one draw may give */
#define FTVM_TURN_TICKS_MAX UINT64_C(10000000000) /* a second */

enum { /* why a call of ftvm_turn_go returned; in each case there may be rows */
    FTVM_TURN_CLOSED = 0,  /* ftvm_turn_close was called */
    FTVM_TURN_ROWS = 1,    /* there are rows */
    FTVM_TURN_ENTROPY = 2, /* the program waits for random bytes: ftvm_turn_draw, then go on */
    FTVM_TURN_ENDED = 3,   /* the program has ended, or is stuck: see riscv.h. It is paused, and cannot go on */
};

enum { /* kinds of rows */
    FTVM_TURN_INPUT = 1,
    FTVM_TURN_OUTPUT = 2,
    FTVM_TURN_CLOCK = 3,
};

enum { /* channels: those of outputs in riscv.h, and of random bytes, which are an input */
    FTVM_TURN_CHANNEL_ENTROPY = 2,
};

typedef struct ftvm_turn ftvm_turn;

/* How many bytes it takes; they are touched as they are used. */
size_t ftvm_turn_bytes(void);

/* Makes the thread's state, of a machine that is paused.
 *
 * memory            ftvm_turn_bytes() bytes, all zero, aligned to 64
 * machine           outlives it; nobody else runs it or gives it inputs, but while it is paused
 * ticks_per_second  1 to FTVM_TURN_TICKS_MAX
 * has_entropy       whether draws are to be asked for
 * Returns it, which is `memory`; NULL if an argument is out of range, or the system has no lock to give. */
ftvm_turn *ftvm_turn_init(void *memory, ftvm_riscv *machine, uint64_t ticks_per_second, int has_entropy);

/* Waits until it may run, and does until there is something to hand on. Only for the machine's own thread.
 *
 * The machine counts as running from when it may run until a later call finds that it may not: what a call handed on
 * has been dealt with by then. Returns one of FTVM_TURN_... above. */
int ftvm_turn_go(ftvm_turn *turn);

/* Says that the thread will not call again, though nobody closed it: the machine counts as paused. */
void ftvm_turn_leave(ftvm_turn *turn);

/* Takes the rows, which stay where they are until the next ftvm_turn_go or _draw; *bytes is set to their length. For the
 * machine's own thread. */
const uint8_t *ftvm_turn_rows(ftvm_turn *turn, size_t *bytes);

/* What a turn brought, packed: its records as a table of logtable.h, and its outputs apart. */
typedef struct {
    const uint8_t *table, *inputs; /* the table's rows, and its payloads: those of inputs */
    const uint8_t *said, *spoken;  /* the outputs' payloads; rows of FTVM_TURN_SPOKEN_ROW bytes: u8 channel, u32 length */
    size_t records, input_bytes, outputs, said_bytes;
    uint8_t channels[4]; /* of the table, in the order in which they come in: FTVM_TURN_NO_CHANNEL, or that of an input */
    uint8_t voices[4];   /* those of the outputs */
    size_t channel_count, voice_count;
} ftvm_turn_packed;

#define FTVM_TURN_SPOKEN_ROW 5
#define FTVM_TURN_NO_CHANNEL 255 /* of a step of the clock, and of an output: its record does not say */

/* Takes the rows, as ftvm_turn_rows, as a table. `output_next` is the number of the first output among them. What
 * `packed` points to stays as long as the rows do. For the machine's own thread. */
void ftvm_turn_pack(ftvm_turn *turn, uint64_t output_next, ftvm_turn_packed *packed);

/* Gives random bytes, at most FTVM_TURN_ENTROPY_MAX, after FTVM_TURN_ENTROPY. For the machine's own thread. Returns how
 * many were taken; they have a row. */
size_t ftvm_turn_draw(ftvm_turn *turn, const uint8_t *bytes, size_t count);

/* Lets it run. */
void ftvm_turn_resume(ftvm_turn *turn);

/* Has it pause. With `waits`, returns when it stands between two instructions and its rows are handed on; never call it
 * so from the machine's own thread. */
void ftvm_turn_pause(ftvm_turn *turn, int waits);

/* Has it pause by itself behind each instruction that makes an output, or no longer. Only while it is paused. */
void ftvm_turn_stop_at_output(ftvm_turn *turn, int is_wanted);

/* Has ftvm_turn_go return FTVM_TURN_CLOSED, now and ever after. */
void ftvm_turn_close(ftvm_turn *turn);

/* Gives a frame (FTVM_RISCV_CHANNEL_NET) or keys (FTVM_RISCV_CHANNEL_CONSOLE), which the machine takes when it has room
 * for them. Returns 1; 0 if they were dropped: too much waits, a frame is too long, or nobody knows the channel. */
int ftvm_turn_deliver(ftvm_turn *turn, uint32_t channel, const uint8_t *bytes, size_t count);

/* Gives inputs that came together: the thread is woken once, and takes them all. `channels` and `lengths` are theirs,
 * one for each of `count`; `content` holds them, one behind the other. Returns how many were taken.
 *
 * is_borrowed  NULL; else the caller's thread may do the turn that they lead to, where the machine's own thread rests and
 *              is not woken. Set to 1 if it did: there are rows, which the caller takes (ftvm_turn_rows,
 *              ftvm_turn_pack), hands on, and then calls ftvm_turn_give_back; where it takes longer than some 0.3 ms, the
 *              machine's own thread goes on with it then. Else to 0: its own thread does the turn */
size_t ftvm_turn_deliver_all(ftvm_turn *turn, const uint8_t *channels, const uint32_t *lengths, const uint8_t *content,
                             size_t count, int *is_borrowed);

/* Gives back what ftvm_turn_deliver_all has borrowed, with its rows handed on. In the same thread; until then a pause is
 * not over. Rows that were not taken are left to the machine's own thread. */
void ftvm_turn_give_back(ftvm_turn *turn);

/* Whether it may run, or still does. */
int ftvm_turn_is_busy(ftvm_turn *turn);

/* Whether its hart waits, and nothing that was given waits for it: it says nothing more before an input or its timer
 * comes. At any time, from any thread: what is true now may not be in a moment. */
int ftvm_turn_is_idle(ftvm_turn *turn);

#endif
