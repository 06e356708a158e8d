#define _POSIX_C_SOURCE 200809L /* a condition that waits by the monotonic clock */

#include "turn.h"

#include <string.h>
#include <time.h>

#include "devices/output.h"
#include "devices/wire.h"
#include "turnstate.h"

#define RUN_INSTRUCTIONS 1000000  /* one run; outputs, inputs and a pause end it sooner */
#define RUN_INSTRUCTIONS_FED 20000 /* one run while inputs wait that the machine had no room for */
#define GATHER_INSTRUCTIONS 20000 /* an output waits for others to go along no longer: some 0.1 ms */
#define SECOND_NS UINT64_C(1000000000)
#define WAIT_SECONDS_MAX 3600 /* then it looks again: seconds times ticks must not overflow */

/* What one turn can add beside frames: a clock row, a draw, keys, and the outputs of one instruction. */
#define ROWS_KEPT_FREE                                                                                                 \
    (2 * TURN_ROW_HEADER + FTVM_TURN_ENTROPY_MAX + TURN_ROW_HEADER + 64 + DEVICE_OUTPUT_BURST + 512 * (TURN_ROW_HEADER))

_Static_assert(ROWS_KEPT_FREE < TURN_ROWS_BYTES / 2, "frames need room, too");

/* --- rows --- */

void turn_forget_taken_rows(ftvm_turn *turn)
{
    if (turn->are_rows_taken) {
        turn->rows_length = 0;
        turn->outputs_told = 0;
    }
    turn->are_rows_taken = false;
}

static void add_row(ftvm_turn *turn, uint32_t kind, uint32_t channel, uint64_t ticks, const uint8_t *payload,
                    size_t bytes)
{
    uint8_t *row = turn->rows + turn->rows_length;
    size_t padded = (bytes + 7) & ~(size_t)7;
    wire_writer writer = {row, TURN_ROW_HEADER, 0};
    wire_write_u32(&writer, kind);
    wire_write_u32(&writer, channel);
    wire_write_u64(&writer, ftvm_riscv_retired(turn->machine));
    wire_write_u64(&writer, ftvm_riscv_idled(turn->machine));
    wire_write_u64(&writer, ticks);
    wire_write_u32(&writer, (uint32_t)bytes);
    wire_write_u32(&writer, 0);
    if (bytes != 0)
        memcpy(row + TURN_ROW_HEADER, payload, bytes);
    memset(row + TURN_ROW_HEADER + bytes, 0, padded - bytes);
    turn->rows_length += TURN_ROW_HEADER + padded;
}

static bool has_room_for_frame(const ftvm_turn *turn)
{
    return TURN_ROWS_BYTES - turn->rows_length >= ROWS_KEPT_FREE + TURN_ROW_HEADER + FTVM_RISCV_FRAME_BYTES_MAX + 8;
}

static uint32_t u32_at(const uint8_t *at)
{
    wire_reader reader = {at, 4, 0};
    return wire_read_u32(&reader);
}

void ftvm_turn_pack(ftvm_turn *turn, uint64_t output_next, ftvm_turn_packed *packed)
{
    turnpack_rows(&turn->tables, turn->rows, turn->rows_length, output_next, packed);
    turn->are_rows_taken = true;
}

bool turn_take_outputs(ftvm_turn *turn)
{
    size_t bytes, count, at = 0;
    const uint8_t *outputs = ftvm_riscv_outputs(turn->machine, &bytes, &count);
    while (at < bytes) {
        uint32_t channel = u32_at(outputs + at), length = u32_at(outputs + at + 4);
        add_row(turn, FTVM_TURN_OUTPUT, channel, 0, outputs + at + DEVICE_OUTPUT_HEADER, length);
        at += DEVICE_OUTPUT_HEADER + ((length + 7) & ~(size_t)7);
    }
    ftvm_riscv_outputs_clear(turn->machine);
    if (turn->outputs_told == 0)
        turn->spoke_at = ftvm_riscv_retired(turn->machine);
    turn->outputs_told += count;
    return count != 0;
}

/* --- inputs --- */

void turn_feed(ftvm_turn *turn)
{
    turn->is_fresh = false;
    while (turn->frame_count != 0 && has_room_for_frame(turn)) {
        const turn_frame *next = &turn->frames[turn->frame_first];
        int taken = ftvm_riscv_receive_frame(turn->machine, next->content, next->bytes);
        if (taken == 0)
            break;
        if (taken > 0)
            add_row(turn, FTVM_TURN_INPUT, FTVM_RISCV_CHANNEL_NET, 0, next->content, next->bytes);
        turn->frame_first = (turn->frame_first + 1) % FTVM_TURN_FRAMES_MAX;
        turn->frame_count--;
    }
    const uint8_t *keys = turn->console + turn->console_first;
    size_t count = turn->console_count == 0 ? 0 : ftvm_riscv_receive_console(turn->machine, keys, turn->console_count);
    if (count != 0) {
        add_row(turn, FTVM_TURN_INPUT, FTVM_RISCV_CHANNEL_CONSOLE, 0, keys, count);
        turn->console_first += count;
        turn->console_count -= count;
    }
}

bool turn_wants_entropy(const ftvm_turn *turn)
{
    return turn->has_entropy && !turn->has_drawn_blank && ftvm_riscv_entropy_wanted(turn->machine) != 0;
}

size_t ftvm_turn_draw(ftvm_turn *turn, const uint8_t *bytes, size_t count)
{
    turn_forget_taken_rows(turn);
    size_t offered = count < FTVM_TURN_ENTROPY_MAX ? count : FTVM_TURN_ENTROPY_MAX;
    if (TURN_ROWS_BYTES - turn->rows_length < ROWS_KEPT_FREE)
        return 0; /* nobody asked for this draw: ftvm_turn_go would have handed rows on before */
    size_t taken = ftvm_riscv_receive_entropy(turn->machine, bytes, offered);
    turn->has_drawn_blank = taken == 0;
    if (taken != 0)
        add_row(turn, FTVM_TURN_INPUT, FTVM_TURN_CHANNEL_ENTROPY, 0, bytes, taken);
    return taken;
}

/* --- time --- */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static uint64_t ticks_of(const ftvm_turn *turn)
{
    return ftvm_riscv_retired(turn->machine) + ftvm_riscv_idled(turn->machine);
}

static void anchor(ftvm_turn *turn, uint64_t now)
{
    turn->anchor_ns = now;
    turn->anchor_ticks = ticks_of(turn);
}

/* How many ticks the machine's time is behind the clock's, since they were last made equal. */
static int64_t ticks_behind(const ftvm_turn *turn, uint64_t now)
{
    uint64_t seconds = (now - turn->anchor_ns) / SECOND_NS, rest = (now - turn->anchor_ns) % SECOND_NS;
    uint64_t elapsed = seconds * turn->ticks_per_second + rest * turn->ticks_per_second / SECOND_NS;
    return (int64_t)(elapsed - (ticks_of(turn) - turn->anchor_ticks));
}

bool turn_is_disturbed(const ftvm_turn *turn)
{
    return turn->is_fresh || !turn->is_wanted || turn->is_closing;
}

uint64_t turn_rests_until(ftvm_turn *turn)
{
    uint64_t now = now_ns(), ticks_max = ftvm_riscv_idle_max(turn->machine);
    if (ticks_behind(turn, now) < 0)
        anchor(turn, now); /* it computed faster than its time goes: a wait still takes as long as it says */
    uint64_t behind = (uint64_t)ticks_behind(turn, now);
    if (ticks_max <= behind)
        return now;
    uint64_t ticks = ticks_max - behind, seconds = ticks / turn->ticks_per_second, rest = ticks % turn->ticks_per_second;
    if (seconds >= WAIT_SECONDS_MAX)
        return now + WAIT_SECONDS_MAX * SECOND_NS;
    return now + seconds * SECOND_NS + (rest * SECOND_NS + turn->ticks_per_second - 1) / turn->ticks_per_second;
}

void turn_catch_up(ftvm_turn *turn)
{
    int64_t behind = ticks_behind(turn, now_ns());
    uint64_t passed = behind < 0 ? 0 : (uint64_t)behind, ticks_max = ftvm_riscv_idle_max(turn->machine);
    passed = passed < ticks_max ? passed : ticks_max;
    if (passed != 0) {
        add_row(turn, FTVM_TURN_CLOCK, 0, passed, NULL, 0);
        ftvm_riscv_idle(turn->machine, passed);
        turn->is_waiting = passed < ticks_max; /* else its timer is due: it goes on with the next run */
    }
}

/* Waits until that time, or until it is disturbed or called back, and in any case until nobody has borrowed it; locked. */
static void rest(ftvm_turn *turn)
{
    struct timespec at = {
        .tv_sec = (time_t)(turn->rests_until / SECOND_NS), .tv_nsec = (long)(turn->rests_until % SECOND_NS)};
    bool is_over = false;
    while (turn->is_borrowed || !(is_over || turn->is_called_back || turn_is_disturbed(turn))) {
        if (turn->is_borrowed) {
            turn->is_called_back = true;
            pthread_cond_wait(&turn->changed, &turn->lock);
        } else {
            is_over = pthread_cond_timedwait(&turn->changed, &turn->lock, &at) != 0;
        }
    }
}

/* Waits for an input or the timer, then lets the machine's time catch up with the clock's; locked. */
static void wait_idle(ftvm_turn *turn)
{
    turn->rests_until = turn_rests_until(turn);
    turn->is_called_back = false;
    turn->is_resting = true;
    rest(turn);
    turn->is_resting = false;
    if (turn->is_waiting) /* else who borrowed it left it in the middle */
        turn_catch_up(turn);
}

/* --- the thread --- */

/* Stands still while it is not wanted; locked. Returns false when it is closed. */
static bool stand(ftvm_turn *turn)
{
    if (turn_may_run(turn) && turn->is_running)
        return true;
    turn->is_running = false;
    pthread_cond_broadcast(&turn->changed);
    while (!turn->is_wanted && !turn->is_closing)
        pthread_cond_wait(&turn->changed, &turn->lock);
    if (turn->is_closing)
        return false;
    turn->is_running = true;
    anchor(turn, now_ns());
    return true;
}

/* How many instructions the outputs among the rows may still wait for others. */
static uint64_t gather_left(const ftvm_turn *turn)
{
    uint64_t since = ftvm_riscv_retired(turn->machine) - turn->spoke_at;
    return since < GATHER_INSTRUCTIONS ? GATHER_INSTRUCTIONS - since : 0;
}

int turn_run(ftvm_turn *turn, uint64_t instructions)
{
    turn->is_computing = true;
    turn->is_waiting = false;
    turn_unlock(turn);
    int why = ftvm_riscv_run(turn->machine, instructions, FTVM_RISCV_STOP_AT_OUTPUT);
    turn_lock(turn);
    turn->is_computing = false;
    turn->is_waiting = why == FTVM_RISCV_IDLE;
    return why;
}

/* How many instructions the next run may take. */
static uint64_t instructions_of_run(const ftvm_turn *turn)
{
    uint64_t instructions = turn_has_input(turn) ? RUN_INSTRUCTIONS_FED : RUN_INSTRUCTIONS;
    return turn->outputs_told != 0 && gather_left(turn) < instructions ? gather_left(turn) : instructions;
}

/* Whether outputs among the rows wait for what the machine does next: one call hands all on that it says until the hart
 * waits, as answers to inputs that came together are wanted together. */
static bool gathers(const ftvm_turn *turn, int why)
{
    if (turn->outputs_told == 0 || turn->outputs_told >= TURN_GATHER_OUTPUTS || turn->rows_length >= TURN_ROWS_BYTES / 4)
        return false;
    if (turn->stops_at_output)
        return false;
    return gather_left(turn) != 0 && (why != FTVM_RISCV_IDLE || turn->is_fresh) && !turn_wants_entropy(turn);
}

/* One run, with what waits as inputs before it, and what follows from how it ended; locked. Returns why the thread has
 * to return to its caller, or FTVM_TURN_CLOSED if it does not. */
static int turn_once(ftvm_turn *turn)
{
    if (turn_wants_entropy(turn)) /* a program may ask for a megabyte at one place: rows are handed on between its draws */
        return turn->rows_length < TURN_ROWS_BYTES / 4 ? FTVM_TURN_ENTROPY : FTVM_TURN_ROWS;
    turn_feed(turn);
    int why = turn_run(turn, instructions_of_run(turn));
    bool has_spoken = turn_take_outputs(turn);
    if (why == FTVM_RISCV_FINISHED || why == FTVM_RISCV_STUCK) {
        turn->is_wanted = false;
        return FTVM_TURN_ENDED;
    }
    if (has_spoken && turn->stops_at_output)
        turn->is_wanted = false;
    if (gathers(turn, why))
        return FTVM_TURN_CLOSED;
    /* A run that was stopped for an input goes on with it: inputs travel with the output that they lead to. */
    bool goes_on = turn->outputs_told == 0 && why == FTVM_RISCV_STOPPED && turn->rows_length < TURN_ROWS_BYTES / 4;
    if (turn->rows_length != 0 && !goes_on)
        return FTVM_TURN_ROWS;
    if (why == FTVM_RISCV_IDLE && !turn_wants_entropy(turn) && !turn->is_fresh)
        wait_idle(turn);
    turn->has_drawn_blank = false;
    return FTVM_TURN_CLOSED;
}

int ftvm_turn_go(ftvm_turn *turn)
{
    int why = FTVM_TURN_CLOSED;
    turn_forget_taken_rows(turn);
    turn_lock(turn);
    while (why == FTVM_TURN_CLOSED) {
        if (turn->rows_length != 0 && !turn_may_run(turn))
            why = FTVM_TURN_ROWS; /* who waits for the pause gets them first */
        else if (stand(turn))
            why = turn_once(turn);
        else
            break;
    }
    turn_unlock(turn);
    return why;
}

void ftvm_turn_leave(ftvm_turn *turn)
{
    turn_lock(turn);
    turn->is_wanted = false;
    turn->is_running = false;
    pthread_cond_broadcast(&turn->changed);
    turn_unlock(turn);
}

const uint8_t *ftvm_turn_rows(ftvm_turn *turn, size_t *bytes)
{
    turn->are_rows_taken = true;
    *bytes = turn->rows_length;
    return turn->rows;
}

/* --- what others ask --- */

size_t ftvm_turn_bytes(void)
{
    return sizeof(ftvm_turn);
}

ftvm_turn *ftvm_turn_init(void *memory, ftvm_riscv *machine, uint64_t ticks_per_second, int has_entropy)
{
    ftvm_turn *turn = memory;
    pthread_condattr_t monotonic;
    if (memory == NULL || ((uintptr_t)memory & 63) != 0 || ticks_per_second == 0 || ticks_per_second > FTVM_TURN_TICKS_MAX)
        return NULL;
    if (pthread_mutex_init(&turn->lock, NULL) != 0 || pthread_condattr_init(&monotonic) != 0)
        return NULL;
    bool is_made = pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 &&
                   pthread_cond_init(&turn->changed, &monotonic) == 0;
    pthread_condattr_destroy(&monotonic);
    turn->machine = machine;
    turn->ticks_per_second = ticks_per_second;
    turn->has_entropy = has_entropy != 0;
    return is_made ? turn : NULL;
}

void ftvm_turn_resume(ftvm_turn *turn)
{
    turn_lock(turn);
    turn->is_wanted = true;
    pthread_cond_broadcast(&turn->changed);
    turn_unlock(turn);
}

void ftvm_turn_pause(ftvm_turn *turn, int waits)
{
    turn_lock(turn);
    turn->is_wanted = false;
    if (turn->is_computing)
        ftvm_riscv_stop(turn->machine);
    pthread_cond_broadcast(&turn->changed);
    while (waits != 0 && turn->is_running)
        pthread_cond_wait(&turn->changed, &turn->lock);
    turn_unlock(turn);
}

void ftvm_turn_stop_at_output(ftvm_turn *turn, int is_wanted)
{
    turn_lock(turn);
    turn->stops_at_output = is_wanted != 0;
    turn_unlock(turn);
}

void ftvm_turn_close(ftvm_turn *turn)
{
    turn_lock(turn);
    turn->is_closing = true;
    pthread_cond_broadcast(&turn->changed);
    turn_unlock(turn);
}

int ftvm_turn_is_busy(ftvm_turn *turn)
{
    turn_lock(turn);
    bool is_busy = turn->is_wanted || turn->is_running;
    turn_unlock(turn);
    return is_busy;
}

int ftvm_turn_is_idle(ftvm_turn *turn)
{
    turn_lock(turn);
    bool is_idle = turn->is_waiting && !turn_has_input(turn);
    turn_unlock(turn);
    return is_idle;
}
