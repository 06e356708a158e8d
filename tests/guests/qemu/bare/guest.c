/* A guest that checks itself: it writes random words all over 16 MiB and reads each before it is written again; two timers
 * interrupt it; the hypervisor tells it the time in a page that nobody else writes; up to three more processors do the
 * same to a megabyte each. Each half second by the first timer it says on the serial port how all that stands:
 *
 *     beat 3 bad 0 pit 150 lapic 148 writes 123456 workers 3 writes 99999 clock 0123456789abcdef version 12
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define WORK ((volatile u32 *)0x400000)
#define PAGES 4096u
#define WORDS_A_PAGE 1024u
#define WORKERS_MAX 3u
#define WORKER_PAGES 256u
#define WORKER_WORK(worker) (WORK + (PAGES + (worker) * WORKER_PAGES) * WORDS_A_PAGE)
#define TRAMPOLINE 0x8000u
#define SPIN 200
#define COM1 0x3f8
#define LAPIC(offset) (*(volatile u32 *)(0xfee00000u + (offset)))
#define CLOCK_REGISTER 0x4b564d01u
#define PIT_DIVISOR 11932u /* 100 Hz */
#define BEAT_TICKS 50u

struct gate {
    unsigned short low, selector;
    u8 zero, type;
    unsigned short high;
} __attribute__((packed));

/* As KVM writes it. */
struct clock_page {
    u32 version, padding;
    u64 tsc, nanoseconds;
    u32 multiplier;
    signed char shift;
    u8 flags, more[2];
} __attribute__((packed));

extern char on_pit[], on_lapic[], on_other[], trampoline[], trampoline_end[];
extern volatile u32 workers; /* how many more processors run */
void guest(void);
void work(u32 worker);
void count_pit(void);
void count_lapic(void);

static struct gate gates[256];
static volatile u32 pit, lapic;
static u32 expected[PAGES], worker_expected[WORKERS_MAX][WORKER_PAGES];
static volatile u32 worker_writes[WORKERS_MAX], worker_bad[WORKERS_MAX];
static union {
    volatile struct clock_page clock;
    u8 page[4096];
} alone __attribute__((aligned(4096)));

static void out(unsigned short port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 in(unsigned short port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static u64 ticks(void)
{
    u64 value;
    __asm__ volatile("rdtsc" : "=A"(value));
    return value;
}

static void set_register(u32 number, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(number), "A"(value));
}

void count_pit(void)
{
    pit++;
    out(0x20, 0x20);
}

void count_lapic(void)
{
    lapic++;
    LAPIC(0xb0) = 0;
}

static void say_char(char character)
{
    while (!(in(COM1 + 5) & 0x20))
        ;
    out(COM1, (u8)character);
}

static void say(const char *text)
{
    while (*text)
        say_char(*text++);
}

static void say_number(u32 number)
{
    char digits[10];
    int count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    while (count)
        say_char(digits[--count]);
}

static void say_hex(u64 number)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        say_char("0123456789abcdef"[number >> shift & 15]);
}

static int has_clock(void)
{
    u32 a = 0x40000001, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (a & 8) != 0;
}

static u64 now(void)
{
    u32 version;
    u64 result;
    do {
        version = alone.clock.version;
        __asm__ volatile("" : : : "memory");
        u64 passed = ticks() - alone.clock.tsc;
        passed = alone.clock.shift >= 0 ? passed << alone.clock.shift : passed >> -alone.clock.shift;
        u64 multiplier = alone.clock.multiplier;
        result = alone.clock.nanoseconds + (passed >> 32) * multiplier + ((passed & 0xffffffffu) * multiplier >> 32);
        __asm__ volatile("" : : : "memory");
    } while ((version & 1) || version != alone.clock.version);
    return result;
}

static void open_gate(int number, char *handler)
{
    u32 address = (u32)handler;
    gates[number] = (struct gate){(unsigned short)(address & 0xffff), 8, 0, 0x8e, (unsigned short)(address >> 16)};
}

static void start_timers(void)
{
    struct {
        unsigned short limit;
        void *base;
    } __attribute__((packed)) pointer = {sizeof gates - 1, gates};
    for (int number = 0; number < 256; number++)
        open_gate(number, on_other);
    open_gate(0x20, on_pit);
    open_gate(0x40, on_lapic);
    __asm__ volatile("lidt %0" : : "m"(pointer));
    static const struct {
        unsigned short port;
        u8 value;
    } settings[] = {{0x20, 0x11}, {0xa0, 0x11}, {0x21, 0x20}, {0xa1, 0x28}, {0x21, 4},    {0xa1, 2},
                    {0x21, 1},    {0xa1, 1},    {0x21, 0xfe}, {0xa1, 0xff}, {0x43, 0x34}, {0x40, PIT_DIVISOR & 255},
                    {0x40, PIT_DIVISOR >> 8}};
    for (u32 each = 0; each < sizeof settings / sizeof *settings; each++)
        out(settings[each].port, settings[each].value);
    LAPIC(0xf0) = 0x1ff;             /* on */
    LAPIC(0x3e0) = 0xb;              /* undivided */
    LAPIC(0x350) = 0x700;            /* the first timer's interrupts come through */
    LAPIC(0x320) = 0x20000 | 0x40;   /* again and again */
    LAPIC(0x380) = 10000000;
    __asm__ volatile("sti");
}

static u32 next_random(u32 *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Writes a random word of a random page; returns whether the one that is there is not the one that was written last. */
static u32 write_one(volatile u32 *memory, u32 *known, u32 pages, u32 *seed)
{
    u32 page = next_random(seed) % pages;
    volatile u32 *word = memory + page * WORDS_A_PAGE;
    u32 is_bad = *word != known[page];
    *word = known[page] = next_random(seed);
    for (volatile int spin = 0; spin < SPIN; spin++)
        ;
    return is_bad;
}

void work(u32 worker)
{
    u32 seed = 88172645u + worker;
    for (;;) {
        worker_bad[worker] += write_one(WORKER_WORK(worker), worker_expected[worker], WORKER_PAGES, &seed);
        worker_writes[worker]++;
    }
}

/* Has all other processors that there are start at the trampoline. */
static void start_workers(void)
{
    for (char *from = trampoline; from < trampoline_end; from++)
        ((volatile char *)TRAMPOLINE)[from - trampoline] = *from;
    LAPIC(0x300) = 0xc4500; /* INIT to all but this one */
    for (u32 due = pit + 5; pit < due;)
        ;
    LAPIC(0x300) = 0xc4600 | TRAMPOLINE >> 12;
}

void guest(void)
{
    int clock = has_clock();
    u32 bad = 0, writes = 0, beats = 0, due = BEAT_TICKS, seed = 2463534242u;
    start_timers();
    start_workers();
    if (clock)
        set_register(CLOCK_REGISTER, (u32)&alone.clock | 1);
    for (;;) {
        bad += write_one(WORK, expected, PAGES, &seed);
        writes++;
        if ((int)(pit - due) < 0)
            continue;
        due = pit + BEAT_TICKS;
        say("beat ");
        say_number(++beats);
        say(" bad ");
        say_number(bad + worker_bad[0] + worker_bad[1] + worker_bad[2]);
        say(" pit ");
        say_number(pit);
        say(" lapic ");
        say_number(lapic);
        say(" writes ");
        say_number(writes);
        say(" workers ");
        say_number(workers);
        say(" writes ");
        say_number(worker_writes[0] + worker_writes[1] + worker_writes[2]);
        say(" clock ");
        say_hex(clock ? now() : 0);
        say(" version ");
        say_number(clock ? alone.clock.version : 0);
        say("\n");
    }
}
