#define _POSIX_C_SOURCE 200809L /* a condition that waits by the monotonic clock */

#include "turn.h"

#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "devices/output.h"
#include "devices/wire.h"
#include "turnpack.h"

#define RUN_INSTRUCTIONS 1000000  /* one run; outputs, inputs and a pause end it sooner */
#define RUN_INSTRUCTIONS_FED 20000 /* one run while inputs wait that the machine had no room for */
#define GATHER_INSTRUCTIONS 20000 /* an output waits for others to go along no longer: some 0.1 ms */
#define GATHER_OUTPUTS 64 /* nor for more of them */
#define SECOND_NS UINT64_C(1000000000)
#define WAIT_SECONDS_MAX 3600 /* then it looks again: seconds times ticks must not overflow */

/* What one turn can add beside frames: a clock row, a draw, keys, and the outputs of one instruction. */
#define ROWS_KEPT_FREE                                                                                                 \
    (2 * TURN_ROW_HEADER + FTVM_TURN_ENTROPY_MAX + TURN_ROW_HEADER + 64 + DEVICE_OUTPUT_BURST + 512 * (TURN_ROW_HEADER))

_Static_assert(ROWS_KEPT_FREE < TURN_ROWS_BYTES / 2, "frames need room, too");

typedef struct {
    uint32_t bytes;
    uint8_t content[FTVM_RISCV_FRAME_BYTES_MAX];
} frame;

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
    size_t frame_first, frame_count;
    size_t console_first, console_count;
    frame frames[FTVM_TURN_FRAMES_MAX];
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

static void lock(ftvm_turn *turn)
{
    pthread_mutex_lock(&turn->lock);
}

static void unlock(ftvm_turn *turn)
{
    pthread_mutex_unlock(&turn->lock);
}

/* --- rows --- */

static void forget_taken_rows(ftvm_turn *turn)
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

/* Notes what the run said. Returns whether it said anything. */
static bool take_outputs(ftvm_turn *turn)
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

/* Gives the machine as much of what waits as it can take now; locked. */
static void feed(ftvm_turn *turn)
{
    turn->is_fresh = false;
    while (turn->frame_count != 0 && has_room_for_frame(turn)) {
        const frame *next = &turn->frames[turn->frame_first];
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

static bool wants_entropy(const ftvm_turn *turn)
{
    return turn->has_entropy && !turn->has_drawn_blank && ftvm_riscv_entropy_wanted(turn->machine) != 0;
}

size_t ftvm_turn_draw(ftvm_turn *turn, const uint8_t *bytes, size_t count)
{
    forget_taken_rows(turn);
    size_t offered = count < FTVM_TURN_ENTROPY_MAX ? count : FTVM_TURN_ENTROPY_MAX;
    if (TURN_ROWS_BYTES - turn->rows_length < ROWS_KEPT_FREE)
        return 0; /* nobody asked for this draw: ftvm_turn_go would have handed rows on before */
    size_t taken = ftvm_riscv_receive_entropy(turn->machine, bytes, offered);
    turn->has_drawn_blank = taken == 0;
    if (taken != 0)
        add_row(turn, FTVM_TURN_INPUT, FTVM_TURN_CHANNEL_ENTROPY, 0, bytes, taken);
    return taken;
}

static bool put_frame(ftvm_turn *turn, const uint8_t *bytes, size_t count)
{
    if (count > FTVM_RISCV_FRAME_BYTES_MAX || turn->frame_count == FTVM_TURN_FRAMES_MAX)
        return false;
    frame *last = &turn->frames[(turn->frame_first + turn->frame_count) % FTVM_TURN_FRAMES_MAX];
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

int ftvm_turn_deliver(ftvm_turn *turn, uint32_t channel, const uint8_t *bytes, size_t count)
{
    lock(turn);
    bool is_taken = put(turn, channel, bytes, count);
    if (is_taken)
        tell_fresh(turn);
    unlock(turn);
    return is_taken;
}

size_t ftvm_turn_deliver_all(ftvm_turn *turn, const uint8_t *channels, const uint32_t *lengths, const uint8_t *content,
                             size_t count)
{
    size_t taken = 0;
    lock(turn);
    for (size_t place = 0; place < count; place++) {
        taken += put(turn, channels[place], content, lengths[place]);
        content += lengths[place];
    }
    if (taken != 0)
        tell_fresh(turn);
    unlock(turn);
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

static bool is_disturbed(const ftvm_turn *turn)
{
    return turn->is_fresh || !turn->is_wanted || turn->is_closing;
}

/* Waits so many ticks of time, or until it is disturbed; locked. */
static void wait_ticks(ftvm_turn *turn, uint64_t now, uint64_t ticks)
{
    uint64_t seconds = ticks / turn->ticks_per_second, rest = ticks % turn->ticks_per_second;
    uint64_t until = seconds >= WAIT_SECONDS_MAX
                         ? now + WAIT_SECONDS_MAX * SECOND_NS
                         : now + seconds * SECOND_NS + (rest * SECOND_NS + turn->ticks_per_second - 1) / turn->ticks_per_second;
    struct timespec at = {.tv_sec = (time_t)(until / SECOND_NS), .tv_nsec = (long)(until % SECOND_NS)};
    while (!is_disturbed(turn) && pthread_cond_timedwait(&turn->changed, &turn->lock, &at) == 0) {
    }
}

/* Waits for an input or the timer, then lets the machine's time catch up with the clock's; locked. */
static void wait_idle(ftvm_turn *turn)
{
    uint64_t now = now_ns(), ticks_max = ftvm_riscv_idle_max(turn->machine);
    if (ticks_behind(turn, now) < 0)
        anchor(turn, now); /* it computed faster than its time goes: a wait still takes as long as it says */
    int64_t behind = ticks_behind(turn, now);
    if (ticks_max > (uint64_t)behind)
        wait_ticks(turn, now, ticks_max - (uint64_t)behind);
    behind = ticks_behind(turn, now_ns());
    uint64_t passed = behind < 0 ? 0 : (uint64_t)behind;
    passed = passed < ticks_max ? passed : ticks_max;
    if (passed != 0) {
        add_row(turn, FTVM_TURN_CLOCK, 0, passed, NULL, 0);
        ftvm_riscv_idle(turn->machine, passed);
    }
}

/* --- the thread --- */

static bool may_run(const ftvm_turn *turn)
{
    return turn->is_wanted && !turn->is_closing;
}

/* Stands still while it is not wanted; locked. Returns false when it is closed. */
static bool stand(ftvm_turn *turn)
{
    if (may_run(turn) && turn->is_running)
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

static bool has_input(const ftvm_turn *turn)
{
    return turn->frame_count != 0 || turn->console_count != 0;
}

/* How many instructions the outputs among the rows may still wait for others. */
static uint64_t gather_left(const ftvm_turn *turn)
{
    uint64_t since = ftvm_riscv_retired(turn->machine) - turn->spoke_at;
    return since < GATHER_INSTRUCTIONS ? GATHER_INSTRUCTIONS - since : 0;
}

/* Runs the machine, with the lock free meanwhile. Returns why the run ended. */
static int run(ftvm_turn *turn)
{
    uint64_t instructions = has_input(turn) ? RUN_INSTRUCTIONS_FED : RUN_INSTRUCTIONS;
    if (turn->outputs_told != 0 && gather_left(turn) < instructions)
        instructions = gather_left(turn);
    turn->is_computing = true;
    turn->is_waiting = false;
    unlock(turn);
    int why = ftvm_riscv_run(turn->machine, instructions, FTVM_RISCV_STOP_AT_OUTPUT);
    lock(turn);
    turn->is_computing = false;
    turn->is_waiting = why == FTVM_RISCV_IDLE;
    return why;
}

/* Whether outputs among the rows wait for what the machine does next: one call hands all on that it says until the hart
 * waits, as answers to inputs that came together are wanted together. */
static bool gathers(const ftvm_turn *turn, int why)
{
    if (turn->outputs_told == 0 || turn->outputs_told >= GATHER_OUTPUTS || turn->rows_length >= TURN_ROWS_BYTES / 4)
        return false;
    if (turn->stops_at_output)
        return false;
    return gather_left(turn) != 0 && (why != FTVM_RISCV_IDLE || turn->is_fresh) && !wants_entropy(turn);
}

/* One run, with what waits as inputs before it, and what follows from how it ended; locked. Returns why the thread has
 * to return to its caller, or FTVM_TURN_CLOSED if it does not. */
static int turn_once(ftvm_turn *turn)
{
    if (wants_entropy(turn)) /* a program may ask for a megabyte at one place: rows are handed on between its draws */
        return turn->rows_length < TURN_ROWS_BYTES / 4 ? FTVM_TURN_ENTROPY : FTVM_TURN_ROWS;
    feed(turn);
    int why = run(turn);
    bool has_spoken = take_outputs(turn);
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
    if (why == FTVM_RISCV_IDLE && !wants_entropy(turn) && !turn->is_fresh)
        wait_idle(turn);
    turn->has_drawn_blank = false;
    return FTVM_TURN_CLOSED;
}

int ftvm_turn_go(ftvm_turn *turn)
{
    int why = FTVM_TURN_CLOSED;
    forget_taken_rows(turn);
    lock(turn);
    while (why == FTVM_TURN_CLOSED) {
        if (turn->rows_length != 0 && !may_run(turn))
            why = FTVM_TURN_ROWS; /* who waits for the pause gets them first */
        else if (stand(turn))
            why = turn_once(turn);
        else
            break;
    }
    unlock(turn);
    return why;
}

void ftvm_turn_leave(ftvm_turn *turn)
{
    lock(turn);
    turn->is_wanted = false;
    turn->is_running = false;
    pthread_cond_broadcast(&turn->changed);
    unlock(turn);
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
    lock(turn);
    turn->is_wanted = true;
    pthread_cond_broadcast(&turn->changed);
    unlock(turn);
}

void ftvm_turn_pause(ftvm_turn *turn, int waits)
{
    lock(turn);
    turn->is_wanted = false;
    if (turn->is_computing)
        ftvm_riscv_stop(turn->machine);
    pthread_cond_broadcast(&turn->changed);
    while (waits != 0 && turn->is_running)
        pthread_cond_wait(&turn->changed, &turn->lock);
    unlock(turn);
}

void ftvm_turn_stop_at_output(ftvm_turn *turn, int is_wanted)
{
    lock(turn);
    turn->stops_at_output = is_wanted != 0;
    unlock(turn);
}

void ftvm_turn_close(ftvm_turn *turn)
{
    lock(turn);
    turn->is_closing = true;
    pthread_cond_broadcast(&turn->changed);
    unlock(turn);
}

int ftvm_turn_is_busy(ftvm_turn *turn)
{
    lock(turn);
    bool is_busy = turn->is_wanted || turn->is_running;
    unlock(turn);
    return is_busy;
}

int ftvm_turn_is_idle(ftvm_turn *turn)
{
    lock(turn);
    bool is_idle = turn->is_waiting && !has_input(turn);
    unlock(turn);
    return is_idle;
}
