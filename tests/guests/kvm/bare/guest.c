/* A system that checks itself: each processor writes random words to memory and reads each before it is written again,
 * sleeps until its timer wakes it, and sees to it that no clock goes back. The first one also takes what is typed, by the
 * console's interrupt, and asks for random bytes, which an interrupt tells of. It says how all that stands:
 *
 *     beat 3 bad 0 back 0 timer 15 typed 2 random 3 workers 1 ticks 14 clock 0123456789abcdef
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
#define ENTROPY(offset) (*(volatile u32 *)(0xd0002000ull + (offset)))
#define LINE_ENTROPY 19u
#define LINE_UART 20u
#define CLOCK_REGISTER 0x4b564d01u
#define DEADLINE_REGISTER 0x6e0u
#define BEAT_TICKS 5u
#define TICK_NS 20000000ull

enum { VECTOR_TIMER = 0x40, VECTOR_UART = 0x41, VECTOR_ENTROPY = 0x42, VECTOR_SPURIOUS = 0xff };

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

extern char on_timer[], on_uart[], on_entropy[], trampoline[], trampoline_end[];
extern volatile u32 started;
void guest(const u8 *boot_parameters);
void work(u32 worker);
void take_timer(void);
void take_uart(void);
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
static struct {
    u64 address;
    u32 bytes;
    u16 flags, next;
} descriptors[2] __attribute__((aligned(4096)));
static volatile struct {
    u16 flags, index, ring[2];
} available __attribute__((aligned(4096)));
static volatile struct {
    u16 flags, index;
    struct {
        u32 id, bytes;
    } ring[2];
} used __attribute__((aligned(4096)));
static volatile u8 random_bytes[8];

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

void take_entropy(void)
{
    ENTROPY(0x64) = ENTROPY(0x60);
    got_random = used.index;
    LAPIC(0xb0) = 0;
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

static void start_entropy(void)
{
    ENTROPY(0x70) = 0;
    ENTROPY(0x70) = 3;
    ENTROPY(0x24) = 1;
    ENTROPY(0x20) = 1;
    ENTROPY(0x70) = 11;
    ENTROPY(0x30) = 0;
    ENTROPY(0x38) = 2;
    ENTROPY(0x80) = (u32)(u64)descriptors;
    ENTROPY(0x90) = (u32)(u64)&available;
    ENTROPY(0xa0) = (u32)(u64)&used;
    ENTROPY(0x44) = 1;
    ENTROPY(0x70) = 15;
    descriptors[0].address = (u64)random_bytes;
    descriptors[0].bytes = sizeof random_bytes;
    descriptors[0].flags = 2;
}

static void ask_for_random(void)
{
    if (available.index != used.index)
        return;
    available.index++;
    ENTROPY(0x50) = 0;
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
    u32 number = 0, next = BEAT_TICKS;
    start_clock(0);
    tick = (TICK_NS << 32) / clocks[0].clock.multiplier;
    tick = clocks[0].clock.shift >= 0 ? tick >> clocks[0].clock.shift : tick << -clocks[0].clock.shift;
    say(root[0] == 'R' && root[7] == ' ' ? "tables\n" : "no tables\n");
    set_gate(VECTOR_TIMER, on_timer);
    set_gate(VECTOR_UART, on_uart);
    set_gate(VECTOR_ENTROPY, on_entropy);
    start_interrupts();
    start_entropy();
    set_line(LINE_UART, 0, VECTOR_UART);
    set_line(LINE_ENTROPY, 1 << 15, VECTOR_ENTROPY);
    out(COM1 + 1, 1);
    start_others();
    for (;;) {
        check(0);
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
