/* A system that checks itself: each processor writes random words to memory and reads each before it is written again,
 * sleeps until its timer wakes it, and sees to it that no clock goes back. The first one also takes what is typed, by the
 * console's interrupt, asks for random bytes, writes sectors of its disk and reads others back, and answers each frame by
 * the same with its addresses swapped; interrupts tell it of all that. It says how all that stands:
 *
 *     beat 3 bad 0 back 0 timer 15 typed 2 random 3 disk 4 frames 0 workers 1 ticks 14 clock 0123456789abcdef
 *
 * A typed q switches the machine off, an r asks for its reset. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define CPUS_MAX 4
#define WORK(cpu) ((volatile u32 *)(0x400000ull + (cpu) * 0x100000ull))
#define PAGES 256u
#define WORDS_A_PAGE 1024u
#define WRITES 16
#define TRAMPOLINE 0x10000ull
#define COM1 0x3f8
#define LAPIC(offset) (*(volatile u32 *)(0xfee00000ull + (offset)))
#define IO_APIC(offset) (*(volatile u32 *)(0xfec00000ull + (offset)))
#define DEVICE(slot, offset) (*(volatile u32 *)(0xd0000000ull + (slot) * 0x1000ull + (offset)))
#define LINE_FIRST_SLOT 17u
#define LINE_UART 20u
#define SECTORS 64u
#define SECTOR_BYTES 512u
#define FRAME_BYTES 1600u
#define CLOCK_REGISTER 0x4b564d01u
#define DEADLINE_REGISTER 0x6e0u
#define BEAT_TICKS 5u
#define TICK_NS 20000000ull

enum { VECTOR_TIMER = 0x40, VECTOR_UART = 0x41, VECTOR_FIRST_SLOT = 0x50, VECTOR_SPURIOUS = 0xff };
enum { NET = 0, DISK = 1, ENTROPY = 2, SLOTS = 3 };
enum { QUEUE_SIZE = 4, NEXT = 1, WRITABLE = 2, READ_DISK = 0, WRITE_DISK = 1 };

struct queue {
    struct {
        u64 address;
        u32 bytes;
        u16 flags, next;
    } descriptors[QUEUE_SIZE];
    volatile u16 available_flags, available_index, available[QUEUE_SIZE];
    u32 padding;
    volatile u16 used_flags, used_index;
    volatile struct {
        u32 id, bytes;
    } used[QUEUE_SIZE];
} __attribute__((aligned(4096)));

struct gate {
    u16 low, selector, type, middle;
    u32 high, zero;
} __attribute__((packed));

/* As KVM writes it. */
struct clock_page {
    u32 version, padding;
    u64 tsc, nanoseconds;
    u32 multiplier;
    signed char shift;
    u8 flags, more[2];
} __attribute__((packed));

extern char on_timer[], on_uart[], on_net[], on_disk[], on_entropy[], trampoline[], trampoline_end[];
extern volatile u32 started;
void guest(const u8 *boot_parameters);
void work(u32 worker);
void take_timer(void);
void take_uart(void);
void take_net(void);
void take_disk(void);
void take_entropy(void);

static struct gate gates[256];
static u32 expected[CPUS_MAX][PAGES];
static u32 seed[CPUS_MAX];
static volatile u32 timer[CPUS_MAX], bad[CPUS_MAX], back[CPUS_MAX], typed, got_random;
static volatile u8 last_typed;
static u64 tick, last_ticks[CPUS_MAX], last_clock[CPUS_MAX];
static union {
    volatile struct clock_page clock;
    u8 page[4096];
} clocks[CPUS_MAX] __attribute__((aligned(4096)));
static struct queue random_queue, disk_queue, receive_queue, send_queue;
static volatile u8 random_bytes[8];
static struct {
    u32 type, reserved;
    u64 sector;
} wish;
static volatile u32 sector[SECTOR_BYTES / 4], disk_is_done = 1, disk_good;
static volatile u8 disk_status;
static u32 disk_count, wrote[SECTORS];
static volatile u8 received[FRAME_BYTES], sent[FRAME_BYTES];
static volatile u32 frames;

static void out(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 in(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static u64 ticks(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

static void set_register(u32 number, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(number), "a"((u32)value), "d"((u32)(value >> 32)));
}

static u64 clock_ns(u32 cpu)
{
    volatile struct clock_page *clock = &clocks[cpu].clock;
    u64 now;
    u32 version;
    do {
        version = clock->version;
        u64 since = ticks() - clock->tsc;
        since = clock->shift >= 0 ? since << clock->shift : since >> -clock->shift;
        now = clock->nanoseconds + (u64)((unsigned __int128)since * clock->multiplier >> 32);
    } while ((version & 1) != 0 || version != clock->version);
    return now;
}

static u32 my_number(void)
{
    return LAPIC(0x20) >> 24;
}

/* --- interrupts --- */

void take_timer(void)
{
    timer[my_number()]++;
    set_register(DEADLINE_REGISTER, ticks() + tick);
    LAPIC(0xb0) = 0;
}

void take_uart(void)
{
    while ((in(COM1 + 2) & 1) == 0) {
        while ((in(COM1 + 5) & 1) != 0) {
            last_typed = in(COM1);
            typed++;
        }
    }
    LAPIC(0xb0) = 0;
}

static void acknowledge(u32 slot)
{
    DEVICE(slot, 0x64) = DEVICE(slot, 0x60);
    LAPIC(0xb0) = 0;
}

static void notify(u32 slot, u32 number, struct queue *queue)
{
    queue->available_index++;
    DEVICE(slot, 0x50) = number;
}

void take_entropy(void)
{
    acknowledge(ENTROPY);
    got_random = random_queue.used_index;
}

void take_disk(void)
{
    acknowledge(DISK);
    disk_is_done = 1;
}

/* The header of 12 bytes stays as it came, which is right for an answer, too. */
void take_net(void)
{
    acknowledge(NET);
    if (frames == receive_queue.used_index)
        return; /* a frame was sent */
    u32 bytes = receive_queue.used[frames % QUEUE_SIZE].bytes;
    for (u32 i = 0; i < bytes; i++)
        sent[i < 12 || i >= 24 ? i : i < 18 ? i + 6 : i - 6] = received[i];
    for (u32 i = 0; i < 12; i++)
        sent[i] = 0;
    frames++;
    send_queue.descriptors[0].bytes = bytes;
    notify(NET, 1, &send_queue);
    notify(NET, 0, &receive_queue);
}

static void set_gate(u8 vector, char *handler)
{
    u64 at = (u64)handler;
    gates[vector] = (struct gate){(u16)at, 0x10, 0x8e00, (u16)(at >> 16), (u32)(at >> 32), 0};
}

static void set_line(u32 line, u32 how, u8 vector)
{
    IO_APIC(0) = 0x11 + 2 * line;
    IO_APIC(0x10) = 0;
    IO_APIC(0) = 0x10 + 2 * line;
    IO_APIC(0x10) = how | vector;
}

static void start_interrupts(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) table = {sizeof gates - 1, (u64)gates};
    __asm__ volatile("lidt %0" : : "m"(table));
    LAPIC(0xf0) = 0x100 | VECTOR_SPURIOUS;
    LAPIC(0x320) = 2u << 17 | VECTOR_TIMER;
    set_register(DEADLINE_REGISTER, ticks() + tick);
}

/* --- what it does --- */

static u32 random(u32 cpu)
{
    seed[cpu] = seed[cpu] * 1664525u + 1013904223u;
    return seed[cpu] >> 8;
}

static void check(u32 cpu)
{
    u64 now = ticks(), clock = clock_ns(cpu);
    back[cpu] += (now < last_ticks[cpu]) + (clock < last_clock[cpu]);
    last_ticks[cpu] = now;
    last_clock[cpu] = clock;
    for (u32 i = 0; i < WRITES; i++) {
        u32 page = random(cpu) % PAGES;
        volatile u32 *word = &WORK(cpu)[page * WORDS_A_PAGE + page % 7];
        bad[cpu] += *word != expected[cpu][page];
        *word = expected[cpu][page] = random(cpu);
    }
}

static void start_clock(u32 cpu)
{
    seed[cpu] = cpu + 1;
    set_register(CLOCK_REGISTER, (u64)&clocks[cpu] | 1);
}

void work(u32 worker)
{
    u32 cpu = worker + 1;
    start_clock(cpu);
    start_interrupts();
    for (;;) {
        check(cpu);
        __asm__ volatile("sti; hlt; cli");
    }
}

static void start_others(void)
{
    for (char *byte = trampoline; byte < trampoline_end; byte++)
        ((volatile char *)TRAMPOLINE)[byte - trampoline] = *byte;
    LAPIC(0x300) = 0xc4500;
    LAPIC(0x300) = 0xc4600 | TRAMPOLINE >> 12;
}

static void start_queue(u32 slot, u32 number, struct queue *queue)
{
    DEVICE(slot, 0x30) = number;
    DEVICE(slot, 0x38) = QUEUE_SIZE;
    DEVICE(slot, 0x80) = (u32)(u64)queue->descriptors;
    DEVICE(slot, 0x90) = (u32)(u64)&queue->available_flags;
    DEVICE(slot, 0xa0) = (u32)(u64)&queue->used_flags;
    DEVICE(slot, 0x44) = 1;
}

static void describe(struct queue *queue, u32 number, volatile void *bytes, u32 count, u16 flags)
{
    queue->descriptors[number].address = (u64)bytes;
    queue->descriptors[number].bytes = count;
    queue->descriptors[number].flags = flags;
    queue->descriptors[number].next = (u16)(number + 1);
}

/* Starts the device in a slot, if there is one. */
static int start_device(u32 slot, struct queue *first, struct queue *second)
{
    if (DEVICE(slot, 0x08) == 0)
        return 0;
    DEVICE(slot, 0x70) = 0;
    DEVICE(slot, 0x70) = 3;
    DEVICE(slot, 0x24) = 1;
    DEVICE(slot, 0x20) = 1;
    DEVICE(slot, 0x70) = 11;
    start_queue(slot, 0, first);
    if (second != 0)
        start_queue(slot, 1, second);
    DEVICE(slot, 0x70) = 15;
    set_line(LINE_FIRST_SLOT + slot, 1 << 15, (u8)(VECTOR_FIRST_SLOT + slot));
    return 1;
}

static void ask_for_random(void)
{
    if (random_queue.available_index == random_queue.used_index)
        notify(ENTROPY, 0, &random_queue);
}

static void ask_disk(u32 type, u32 number)
{
    wish.type = type;
    wish.sector = number;
    describe(&disk_queue, 1, sector, sizeof sector, type == READ_DISK ? NEXT | WRITABLE : NEXT);
    disk_status = 0xff;
    disk_is_done = 0;
    notify(DISK, 0, &disk_queue);
}

/* Each sector holds the number of its last write, in all its words; writes and reads take turns. */
static void use_disk(void)
{
    if (!disk_is_done)
        return;
    if (disk_count != 0)
        disk_good += disk_status == 0;
    if (disk_count != 0 && wish.type == READ_DISK) {
        for (u32 i = 0; i < SECTOR_BYTES / 4; i++)
            bad[0] += sector[i] != wrote[wish.sector];
    }
    disk_count++;
    u32 number = random(0) % SECTORS;
    if (disk_count % 2 == 0) {
        ask_disk(READ_DISK, number);
        return;
    }
    wrote[number] = disk_count;
    for (u32 i = 0; i < SECTOR_BYTES / 4; i++)
        sector[i] = disk_count;
    ask_disk(WRITE_DISK, number);
}

/* Returns whether there is a disk. */
static int start_devices(void)
{
    describe(&random_queue, 0, random_bytes, sizeof random_bytes, WRITABLE);
    start_device(ENTROPY, &random_queue, 0);
    describe(&receive_queue, 0, received, sizeof received, WRITABLE);
    describe(&send_queue, 0, sent, 0, 0);
    if (start_device(NET, &receive_queue, &send_queue))
        notify(NET, 0, &receive_queue);
    describe(&disk_queue, 0, &wish, sizeof wish, NEXT);
    describe(&disk_queue, 2, &disk_status, 1, WRITABLE);
    return start_device(DISK, &disk_queue, 0);
}

/* --- what it says --- */

static void say(const char *text)
{
    while (*text != 0)
        out(COM1, (u8)*text++);
}

static void say_number(const char *name, u32 number)
{
    char digits[11] = {0};
    int at = 10;
    do
        digits[--at] = (char)('0' + number % 10);
    while ((number /= 10) != 0);
    say(name);
    say(digits + at);
}

static u32 sum_of(volatile u32 *counts)
{
    return counts[0] + counts[1] + counts[2] + counts[3];
}

static void beat(u32 number)
{
    u64 clock = clock_ns(0);
    say_number("beat ", number);
    say_number(" bad ", sum_of(bad));
    say_number(" back ", sum_of(back));
    say_number(" timer ", timer[0]);
    say_number(" typed ", typed);
    say_number(" random ", got_random);
    say_number(" disk ", disk_good);
    say_number(" frames ", frames);
    say_number(" workers ", started);
    say_number(" ticks ", sum_of(timer) - timer[0]);
    say(" clock ");
    for (int shift = 60; shift >= 0; shift -= 4)
        out(COM1, (u8)"0123456789abcdef"[clock >> shift & 15]);
    say("\n");
}

void guest(const u8 *boot_parameters)
{
    const char *root = *(const char *const *)(boot_parameters + 0x70);
    u32 number = 0, next = BEAT_TICKS, disk_tick = 0;
    start_clock(0);
    tick = (TICK_NS << 32) / clocks[0].clock.multiplier;
    tick = clocks[0].clock.shift >= 0 ? tick >> clocks[0].clock.shift : tick << -clocks[0].clock.shift;
    say(root[0] == 'R' && root[7] == ' ' ? "tables\n" : "no tables\n");
    set_gate(VECTOR_TIMER, on_timer);
    set_gate(VECTOR_UART, on_uart);
    set_gate(VECTOR_FIRST_SLOT + NET, on_net);
    set_gate(VECTOR_FIRST_SLOT + DISK, on_disk);
    set_gate(VECTOR_FIRST_SLOT + ENTROPY, on_entropy);
    start_interrupts();
    set_line(LINE_UART, 0, VECTOR_UART);
    int has_disk = start_devices();
    out(COM1 + 1, 1);
    start_others();
    for (;;) {
        check(0);
        if (has_disk && timer[0] != disk_tick)
            use_disk();
        disk_tick = timer[0];
        if (timer[0] >= next) {
            next += BEAT_TICKS;
            ask_for_random();
            beat(++number);
        }
        if (last_typed == 'q')
            out(0x608, 0x34);
        if (last_typed == 'r')
            out(0x60a, 1);
        __asm__ volatile("sti; hlt; cli");
    }
}
