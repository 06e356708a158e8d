/* system: the few Linux system calls that init makes, without a C library between.
 *
 * A result below zero is a negated errno. Layouts are those of all 64-bit machines; numbers and the way of calling are
 * x86-64's, or those of the generic interface that RISC-V uses.
 *
 * Source: Linux, include/uapi (the interface to programs); syscall(2) for the ways of calling.
 */
#ifndef SYSTEM_H
#define SYSTEM_H

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

#define SYSTEM_IOCTL 16
#define SYSTEM_READ 0
#define SYSTEM_WRITE 1
#define SYSTEM_PPOLL 271
#define SYSTEM_CLOCK_GETTIME 228
#define SYSTEM_REBOOT 169
#define SYSTEM_SOCKET 41
#define SYSTEM_BIND 49
#define SYSTEM_SENDTO 44
#define SYSTEM_RECVFROM 45

static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

#else

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

#endif

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
