/* system: the few Linux system calls that init makes, without a C library between.
 *
 * A result below zero is a negated errno. Numbers and layouts are those of the generic 64-bit interface that RISC-V
 * uses.
 *
 * Source: Linux, include/uapi (the interface to programs); the RISC-V calling convention: number in a7, arguments in
 * a0..a5, result in a0.
 */
#ifndef SYSTEM_H
#define SYSTEM_H

#include <stddef.h>
#include <stdint.h>

#define SYSTEM_IOCTL 29
#define SYSTEM_READ 63
#define SYSTEM_WRITE 64
#define SYSTEM_PPOLL 73
#define SYSTEM_CLOCK_GETTIME 113
#define SYSTEM_REBOOT 142
#define SYSTEM_SOCKET 198
#define SYSTEM_BIND 200
#define SYSTEM_SENDTO 206
#define SYSTEM_RECVFROM 207

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;
    register long a5 __asm__("a5") = f;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
    return a0;
}

struct system_time {
    int64_t seconds;
    int64_t nanos;
};

struct system_poll {
    int32_t file;
    int16_t wanted;
    int16_t found;
};
#define SYSTEM_POLL_IN 1

/* An Internet address; port and ip in network order. */
struct system_address {
    uint16_t family;
    uint16_t port;
    uint32_t ip;
    uint8_t unused[8];
};
#define SYSTEM_INTERNET 2 /* family */
#define SYSTEM_DATAGRAM 2 /* kind of socket */

/* What is asked of or told to a network interface. */
struct system_interface {
    char name[16];
    union {
        struct system_address address;
        uint16_t flags;
        uint8_t room[24];
    };
};
#define SYSTEM_SET_FLAGS 0x8914
#define SYSTEM_SET_ADDRESS 0x8916
#define SYSTEM_SET_NETMASK 0x891c
#define SYSTEM_FLAG_UP 0x1

/* Nanoseconds since boot, never going back. */
static inline uint64_t system_nanos(void)
{
    struct system_time now = {0, 0};
    system_call(SYSTEM_CLOCK_GETTIME, 1 /* monotonic */, (long)&now, 0, 0, 0, 0);
    return (uint64_t)now.seconds * 1000000000u + (uint64_t)now.nanos;
}

/* Ends the machine. */
static inline void system_power_off(void)
{
    system_call(SYSTEM_REBOOT, (long)0xfee1dead, 672274793, 0x4321fedc, 0, 0, 0);
}

#endif
