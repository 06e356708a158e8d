#include <string.h>

#include "turnstate.h"

#define BORROWED_INSTRUCTIONS 65536 /* nobody notices that whoever gives inputs does so much: some 0.3 ms */

static bool put_frame(ftvm_turn *turn, const uint8_t *bytes, size_t count)
{
    if (count > FTVM_RISCV_FRAME_BYTES_MAX || turn->frame_count == FTVM_TURN_FRAMES_MAX)
        return false;
    turn_frame *last = &turn->frames[(turn->frame_first + turn->frame_count) % FTVM_TURN_FRAMES_MAX];
    last->bytes = (uint32_t)count;
    memcpy(last->content, bytes, count);
    turn->frame_count++;
    return true;
}

static bool put_keys(ftvm_turn *turn, const uint8_t *bytes, size_t count)
{
    if (count > FTVM_TURN_CONSOLE_MAX - turn->console_count)
        return false;
    memmove(turn->console, turn->console + turn->console_first, turn->console_count);
    turn->console_first = 0;
    memcpy(turn->console + turn->console_count, bytes, count);
    turn->console_count += count;
    return true;
}

static bool put(ftvm_turn *turn, uint32_t channel, const uint8_t *bytes, size_t count)
{
    if (channel == FTVM_RISCV_CHANNEL_NET)
        return put_frame(turn, bytes, count);
    return channel == FTVM_RISCV_CHANNEL_CONSOLE && put_keys(turn, bytes, count);
}

/* Tells the thread that something was put; locked. */
static void tell_fresh(ftvm_turn *turn)
{
    turn->is_fresh = true;
    if (turn->is_computing)
        ftvm_riscv_stop(turn->machine);
    pthread_cond_broadcast(&turn->changed);
}

/* Runs the machine until its hart waits with all inputs taken, or it has done enough; locked. Returns whether what it did
 * is to be handed on here. */
static bool run_to_rest(ftvm_turn *turn)
{
    uint64_t end = ftvm_riscv_retired(turn->machine) + BORROWED_INSTRUCTIONS, left;
    while ((left = end - ftvm_riscv_retired(turn->machine)) != 0 && turn->outputs_told < TURN_GATHER_OUTPUTS &&
           turn->rows_length < TURN_ROWS_BYTES / 4) {
        if (!turn_may_run(turn) || turn_wants_entropy(turn))
            return false;
        turn_feed(turn);
        int why = turn_run(turn, left);
        turn_take_outputs(turn);
        if (why == FTVM_RISCV_FINISHED || why == FTVM_RISCV_STUCK)
            return false;
        if (why == FTVM_RISCV_IDLE && !turn->is_fresh)
            return turn->rows_length != 0 && !turn_wants_entropy(turn);
    }
    return turn->outputs_told != 0;
}

/* Does the turn that the inputs lead to here, if its thread rests; locked. Returns whether it is done: else its thread
 * does what is left of it. */
static bool borrow(ftvm_turn *turn)
{
    if (!turn->is_resting || turn->is_borrowed || !turn_may_run(turn) || turn->stops_at_output)
        return false;
    turn->is_borrowed = true;
    turn->has_drawn_blank = false; /* as behind each wait: a program that wants random bytes has them asked for again */
    turn_catch_up(turn);
    turn->is_borrowed = run_to_rest(turn);
    return turn->is_borrowed;
}

int ftvm_turn_deliver(ftvm_turn *turn, uint32_t channel, const uint8_t *bytes, size_t count)
{
    turn_lock(turn);
    bool is_taken = put(turn, channel, bytes, count);
    if (is_taken)
        tell_fresh(turn);
    turn_unlock(turn);
    return is_taken;
}

size_t ftvm_turn_deliver_all(ftvm_turn *turn, const uint8_t *channels, const uint32_t *lengths, const uint8_t *content,
                             size_t count, int *is_borrowed)
{
    size_t taken = 0;
    turn_lock(turn);
    for (size_t place = 0; place < count; place++) {
        taken += put(turn, channels[place], content, lengths[place]);
        content += lengths[place];
    }
    bool is_done = taken != 0 && is_borrowed != NULL && borrow(turn);
    if (is_borrowed != NULL)
        *is_borrowed = is_done;
    if (taken != 0 && !is_done)
        tell_fresh(turn);
    turn_unlock(turn);
    return taken;
}

void ftvm_turn_give_back(ftvm_turn *turn)
{
    turn_forget_taken_rows(turn);
    turn_lock(turn);
    turn->is_borrowed = false;
    bool is_early = turn_rests_until(turn) < turn->rests_until; /* the timer was set meanwhile */
    turn->is_called_back |= turn->rows_length != 0 || !turn->is_waiting || is_early;
    if (turn->is_called_back || turn_is_disturbed(turn))
        pthread_cond_broadcast(&turn->changed);
    turn_unlock(turn);
}
