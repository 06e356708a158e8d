/* A compute loop for bench/machine.py: shifts, a table in memory, multiplication, and branches that cannot be foreseen.
 *
 * Ends as spike expects it (HTIF), and as QEMU's `virt` board and the built-in machine do (the test finisher). */
#ifndef ROUNDS
#define ROUNDS 10000000
#endif

volatile unsigned long tohost __attribute__((aligned(4096)));
volatile unsigned long fromhost;
static volatile unsigned long result;
static unsigned table[1024];
static char stack[8192] __attribute__((aligned(16), used));

static unsigned long compute(void)
{
    unsigned x = 1;
    unsigned long sum = 0;
    for (unsigned i = 0; i < ROUNDS; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        table[x & 1023] += x;
        sum += table[x >> 10 & 1023];
        if ((sum & 1) != 0)
            sum = sum * 3 + 1;
    }
    return sum;
}

__attribute__((used)) static void program(void)
{
    result = compute();
    tohost = 1;
    *(volatile unsigned *)0x100000 = 0x5555;
    for (;;) {
    }
}

__attribute__((naked, section(".text.start"))) void _start(void)
{
    __asm__("la sp, stack + 8192\n\tj program");
}
