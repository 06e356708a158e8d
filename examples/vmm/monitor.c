/* A monitor small enough to read at one sitting: its guest is a key-value machine, interpreted here.
 *
 *     monitor SOCKET [userfault|bitmap|compare]
 *
 * The guest, step by step, writes a pseudo-random word of its memory, and each 128 steps a line on "console":
 * `tick 3 sum 0x...`. On "net0" it answers frames of ethertype 0x88b5: `P` number key value stores a word, `G` number
 * key reads it. Its registers are four words; all else is memory. What it says depends on these and on its input alone.
 */
#include "ftvm_vmm.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGES 512u
#define WORDS_A_PAGE (FTVM_VMM_PAGE_BYTES / 8u)
#define TABLE_WORDS (128u * WORDS_A_PAGE) /* the keys; behind them is what the steps write */
#define WORK_WORDS ((PAGES - 128u) * WORDS_A_PAGE)
#define STEPS_A_TURN 32u
#define STEPS_A_TICK 128u
#define TURN_MS 1
#define INPUTS_MAX 64u
#define FRAME_BYTES 35u /* Ethernet header, operation, number, key, value */
#define DEVICES_BYTES 36u
#define CONNECT_SECONDS 30u

typedef struct machine {
    ftvm_vmm link;
    ftvm_vmm_region ram;
    uint64_t steps, seed, ticks, sum; /* the registers */
    bool is_running, stop_at_output, marks_pages, has_failed;
    uint8_t written[PAGES / 8];
    uint8_t inputs[INPUTS_MAX][FRAME_BYTES]; /* frames not taken yet: no part of the state */
    unsigned first, waiting;
} machine;

static uint64_t load_word(const uint8_t *from)
{
    uint64_t word = 0;
    for (int byte = 7; byte >= 0; byte--)
        word = word << 8 | from[byte];
    return word;
}

static void store_word(uint8_t *to, uint64_t word)
{
    for (int byte = 0; byte < 8; byte++)
        to[byte] = (uint8_t)(word >> 8 * byte);
}

/* The one way in which the guest writes memory. */
static void write_ram(machine *self, uint64_t index, uint64_t word)
{
    uint64_t page = index / WORDS_A_PAGE;
    store_word(self->ram.memory + index * 8, word);
    self->written[page / 8] = (uint8_t)(self->written[page / 8] | 1u << page % 8);
}

static void say(machine *self, const char *channel, const void *payload, size_t bytes)
{
    if (ftvm_vmm_output(&self->link, channel, payload, bytes) < 0)
        self->has_failed = true;
    if (self->stop_at_output)
        self->is_running = false; /* right behind the instruction that made it */
}

static void step(machine *self)
{
    char line[64];
    self->seed ^= self->seed << 13;
    self->seed ^= self->seed >> 7;
    self->seed ^= self->seed << 17;
    uint64_t index = TABLE_WORDS + self->seed % WORK_WORDS;
    self->sum = (self->sum ^ load_word(self->ram.memory + index * 8) ^ self->seed) * 0x100000001b3u;
    write_ram(self, index, self->seed);
    if (++self->steps % STEPS_A_TICK == 0) {
        int bytes = snprintf(line, sizeof line, "tick %" PRIu64 " sum 0x%" PRIx64 "\n", ++self->ticks, self->sum);
        say(self, "console", line, (size_t)bytes);
    }
}

static void answer_frame(machine *self, const uint8_t *frame)
{
    uint8_t reply[FRAME_BYTES];
    uint64_t key = load_word(frame + 19) >> 32 & (TABLE_WORDS - 1); /* bytes 23 to 26 */
    memcpy(reply, frame, sizeof reply);
    memcpy(reply, frame + 6, 6);
    memcpy(reply + 6, frame, 6);
    if (frame[14] == 'P')
        write_ram(self, key, load_word(frame + 27));
    store_word(reply + 27, load_word(self->ram.memory + key * 8));
    reply[14] = (uint8_t)(frame[14] | 0x20);
    say(self, "net0", reply, sizeof reply);
}

static void take_input(machine *self, const ftvm_vmm_request *input)
{
    const uint8_t *frame = input->payload;
    if (strcmp(input->channel, "net0") != 0 || input->payload_bytes != FRAME_BYTES || frame[12] != 0x88 ||
        frame[13] != 0xb5 || (frame[14] != 'P' && frame[14] != 'G') || self->waiting == INPUTS_MAX)
        return; /* as a card drops what is not for it, or what it has no room for */
    memcpy(self->inputs[(self->first + self->waiting++) % INPUTS_MAX], frame, FRAME_BYTES);
}

static void run_turn(machine *self)
{
    while (self->is_running && self->waiting > 0) {
        const uint8_t *frame = self->inputs[self->first];
        self->first = (self->first + 1) % INPUTS_MAX;
        self->waiting--;
        answer_frame(self, frame);
    }
    for (unsigned count = 0; self->is_running && count < STEPS_A_TURN; count++)
        step(self);
}

static size_t save(const machine *self, uint8_t *devices)
{
    memcpy(devices, "FVM1", 4);
    store_word(devices + 4, self->steps);
    store_word(devices + 12, self->seed);
    store_word(devices + 20, self->ticks);
    store_word(devices + 28, self->sum);
    return DEVICES_BYTES;
}

static const char *load(machine *self, const uint8_t *devices, size_t bytes)
{
    if (bytes != DEVICES_BYTES || memcmp(devices, "FVM1", 4) != 0 || load_word(devices + 12) == 0)
        return "these are no registers of a key-value machine";
    self->steps = load_word(devices + 4);
    self->seed = load_word(devices + 12);
    self->ticks = load_word(devices + 20);
    self->sum = load_word(devices + 28);
    self->waiting = 0;
    return NULL;
}

/* Does what ftvm asks for; returns whether to go on. */
static bool serve(machine *self, const ftvm_vmm_request *request)
{
    uint8_t devices[DEVICES_BYTES];
    int error = 0;
    switch (request->kind) {
    case FTVM_VMM_PAUSE:
        self->is_running = false;
        error = ftvm_vmm_answer(&self->link, request, NULL, NULL, 0);
        break;
    case FTVM_VMM_RESUME:
        self->is_running = true;
        self->stop_at_output = request->stop_at_output;
        break;
    case FTVM_VMM_SAVE:
        error = ftvm_vmm_answer(&self->link, request, NULL, devices, save(self, devices));
        break;
    case FTVM_VMM_LOAD:
        error = ftvm_vmm_answer(&self->link, request, load(self, request->payload, request->payload_bytes), NULL, 0);
        break;
    case FTVM_VMM_DIRTY:
        error = ftvm_vmm_answer(&self->link, request, NULL, self->written, sizeof self->written);
        memset(self->written, 0, sizeof self->written);
        break;
    case FTVM_VMM_INPUT:
        take_input(self, request);
        break;
    case FTVM_VMM_ANNOUNCE:
        break; /* ftvm tells the network itself where a card of this address is */
    case FTVM_VMM_END:
        return false;
    }
    return error == 0;
}

static int live(machine *self)
{
    ftvm_vmm_request request;
    for (;;) {
        int got = ftvm_vmm_next(&self->link, self->is_running ? TURN_MS : -1, &request);
        if (got < 0 || self->has_failed) {
            fprintf(stderr, "monitor: %s\n", self->link.error);
            return 1; /* the guest stops for good: it may run elsewhere by now */
        }
        if (got > 0 && !serve(self, &request))
            return request.kind == FTVM_VMM_END ? 0 : 1;
        if (got == 0 || self->waiting > 0)
            run_turn(self);
    }
}

int main(int count, char **words)
{
    static const char *const trackings[] = {"compare", "bitmap", "userfault"};
    static machine self = {.seed = 88172645463325252u};
    ftvm_vmm_hello hello = {"kv", "1.0", "words=65536", &self.ram, 1, FTVM_VMM_BITMAP, true};
    if (count < 2 || count > 3) {
        fprintf(stderr, "usage: monitor SOCKET [userfault|bitmap|compare]\n");
        return 2;
    }
    for (size_t each = 0; count == 3 && each < 3; each++)
        if (strcmp(words[2], trackings[each]) == 0)
            hello.tracking = (ftvm_vmm_tracking)each;
    if (ftvm_vmm_region_make(&self.ram, "ram", PAGES) < 0) {
        perror("monitor: the guest's memory");
        return 1;
    }
    if (ftvm_vmm_open(&self.link, words[1], &hello, CONNECT_SECONDS) < 0) {
        fprintf(stderr, "monitor: %s\n", self.link.error);
        return 1;
    }
    memset(self.written, 0xff, sizeof self.written); /* the first answer tells of every page */
    if (self.link.boots)
        for (uint64_t index = 0; index < WORDS_A_PAGE; index++) /* the "program": a page that is not zero */
            write_ram(&self, TABLE_WORDS + index, index * 0x9e3779b97f4a7c15u);
    int status = live(&self);
    ftvm_vmm_close(&self.link);
    return status;
}
