/* turnstate: what the parts of the noun turn share: its state, and what they do for one another. */
#ifndef FTVM_TURNSTATE_H
#define FTVM_TURNSTATE_H

#include <pthread.h>
#include <stdbool.h>

#include "turnpack.h"

#define TURN_GATHER_OUTPUTS 64 /* an output waits for no more others to go along */

typedef struct {
    uint32_t bytes;
    uint8_t content[FTVM_RISCV_FRAME_BYTES_MAX];
} turn_frame;

struct ftvm_turn {
    ftvm_riscv *machine;
    uint64_t ticks_per_second;
    bool has_entropy;
    /* guarded by lock: what is wanted of the thread, what it does, and what waits for the machine */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_wanted;
    bool is_closing;
    bool is_running;
    bool is_computing; /* the lock is free, and a stop is seen */
    bool is_fresh; /* something was delivered since the machine was last fed */
    bool stops_at_output;
    bool is_waiting; /* the last run ended where the hart waits for an interrupt */
    bool is_resting; /* the thread waits for an input or the timer, there: another may borrow the machine */
    bool is_borrowed; /* another thread runs it; all that is the thread's own is that one's meanwhile */
    bool is_called_back; /* the thread has something to do once it rests no longer */
    uint64_t rests_until;
    size_t frame_first, frame_count;
    size_t console_first, console_count;
    turn_frame frames[FTVM_TURN_FRAMES_MAX];
    uint8_t console[FTVM_TURN_CONSOLE_MAX];
    /* the thread's own: the clock's time at which the machine's time was so many ticks; and the rows */
    uint64_t anchor_ns, anchor_ticks;
    bool has_drawn_blank; /* since the machine last ran */
    bool are_rows_taken;
    size_t outputs_told; /* outputs among the rows, the first of them made at `spoke_at` */
    uint64_t spoke_at;
    size_t rows_length;
    uint8_t rows[TURN_ROWS_BYTES];
    turnpack_tables tables; /* the rows once more, packed */
};

static inline void turn_lock(ftvm_turn *turn)
{
    pthread_mutex_lock(&turn->lock);
}

static inline void turn_unlock(ftvm_turn *turn)
{
    pthread_mutex_unlock(&turn->lock);
}

static inline bool turn_may_run(const ftvm_turn *turn)
{
    return turn->is_wanted && !turn->is_closing;
}

static inline bool turn_has_input(const ftvm_turn *turn)
{
    return turn->frame_count != 0 || turn->console_count != 0;
}

/* What follows is for whoever has the machine: its own thread, or who borrowed it. Locked, where nothing else is said. */

/* Forgets rows that were handed on. The lock need not be held. */
void turn_forget_taken_rows(ftvm_turn *turn);

/* Gives the machine as much of what waits as it can take now. */
void turn_feed(ftvm_turn *turn);

/* Runs the machine, with the lock free meanwhile. Returns why the run ended. */
int turn_run(ftvm_turn *turn, uint64_t instructions);

/* Notes what the run said. Returns whether it said anything. */
bool turn_take_outputs(ftvm_turn *turn);

/* Whether random bytes are to be asked for. */
bool turn_wants_entropy(const ftvm_turn *turn);

/* Lets the time of a machine that waits catch up with the clock's. */
void turn_catch_up(ftvm_turn *turn);

/* Returns when a wait for the timer ends that begins now. */
uint64_t turn_rests_until(ftvm_turn *turn);

/* Whether the thread has something else to do than to rest. */
bool turn_is_disturbed(const ftvm_turn *turn);

#endif
