/* init: the one program of a Linux that has no other. It counts, repeats what is typed, and serves keys and values.
 *
 *     "linux: count 7" on the console, five times a second, from 1 upwards without a gap
 *     a typed line comes back behind "linux: heard "; "quit" turns the machine off
 *     the key-value server of examples/guests/kv, the same code and protocol, on UDP port 7000 of 10.77.0.2/24
 *
 * Who watches can tell a takeover from a reboot: after one, the count, the writes and the uptime go on. Uptime here is
 * in nanoseconds, since Linux gives its programs no count of instructions.
 *
 * No memory management unit: this runs where the kernel finds room, so nothing in it may depend on an absolute address
 * (build.py checks). No C library but its memory functions.
 */
#include "kv/kv.h"
#include "board/text.h"
#include "system.h"

#define CONSOLE_IN 0
#define CONSOLE_OUT 1
#define BEAT_NANOS 200000000u
#define LINE_BYTES_MAX 128u
#define BOOT_COUNT_BITS 16u

static struct kv kv;
static uint64_t first_request_nanos; /* names the boot, see kv_protocol.h */

static void print(const struct text *line)
{
    system_call(SYSTEM_WRITE, CONSOLE_OUT, (long)line->at, (long)line->bytes, 0, 0, 0);
}

static void print_line(const char *what, const char *more)
{
    char room[LINE_BYTES_MAX + 32];
    struct text line = text_in(room, sizeof room);
    text_add(&line, what);
    text_add(&line, more);
    text_add(&line, "\n");
    print(&line);
}

static void print_count(uint64_t count)
{
    char room[64];
    struct text line = text_in(room, sizeof room);
    text_add(&line, "linux: count ");
    text_add_number(&line, count);
    text_add(&line, "\n");
    print(&line);
}

static uint32_t ip_of(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
    uint32_t ip;
    be32_put((uint8_t *)&ip, (uint32_t)a << 24 | (uint32_t)b << 16 | (uint32_t)c << 8 | d);
    return ip;
}

static uint16_t port_of(uint16_t number)
{
    uint16_t port;
    be16_put((uint8_t *)&port, number);
    return port;
}

/* Gives eth0 its address and brings it up. Returns what the last call said. */
static long configure(long file)
{
    struct system_interface request = {.name = "eth0", .address = {.family = SYSTEM_INTERNET}};
    request.address.ip = ip_of(10, 77, 0, 2);
    long result = system_call(SYSTEM_IOCTL, file, SYSTEM_SET_ADDRESS, (long)&request, 0, 0, 0);
    if (result < 0)
        return result;
    request.address.ip = ip_of(255, 255, 255, 0);
    result = system_call(SYSTEM_IOCTL, file, SYSTEM_SET_NETMASK, (long)&request, 0, 0, 0);
    if (result < 0)
        return result;
    request.flags = SYSTEM_FLAG_UP;
    return system_call(SYSTEM_IOCTL, file, SYSTEM_SET_FLAGS, (long)&request, 0, 0, 0);
}

/* Opens the server's socket. Returns its file, or -1 (a file that poll passes over) if there is no network. */
static long open_server(void)
{
    const struct system_address any = {.family = SYSTEM_INTERNET, .port = port_of(KV_PORT)};
    const long file = system_call(SYSTEM_SOCKET, SYSTEM_INTERNET, SYSTEM_DATAGRAM, 0, 0, 0, 0);
    if (file < 0 || configure(file) < 0 || system_call(SYSTEM_BIND, file, (long)&any, sizeof any, 0, 0, 0) < 0) {
        print_line("linux: no network", "");
        return -1;
    }
    print_line("linux: serving on 10.77.0.2:7000", "");
    return file;
}

static void serve(long file)
{
    static uint8_t request[2048];
    static uint8_t reply[KV_REPLY_BYTES_MAX];
    struct system_address from;
    uint32_t from_bytes = sizeof from;
    const long bytes =
        system_call(SYSTEM_RECVFROM, file, (long)request, sizeof request, 0, (long)&from, (long)&from_bytes);
    if (bytes < 0)
        return;
    if (first_request_nanos == 0)
        first_request_nanos = system_nanos();
    const struct kv_vitals vitals = {.uptime = system_nanos(), .boot = first_request_nanos << BOOT_COUNT_BITS | 1};
    const size_t reply_bytes = kv_answer(&kv, vitals, (struct span){.at = request, .bytes = (size_t)bytes}, reply);
    if (reply_bytes != 0)
        system_call(SYSTEM_SENDTO, file, (long)reply, (long)reply_bytes, 0, (long)&from, sizeof from);
}

static void obey(const char *line)
{
    static const char quit[] = "quit";
    for (size_t i = 0; line[i] == quit[i]; i++) {
        if (line[i] != '\0')
            continue;
        print_line("linux: off", "");
        system_power_off();
    }
    print_line("linux: heard ", line);
}

/* Takes what was typed. The console gives out a whole line at a time; one longer than the room comes in pieces. */
static void listen(void)
{
    char line[LINE_BYTES_MAX];
    long bytes = system_call(SYSTEM_READ, CONSOLE_IN, (long)line, sizeof line - 1, 0, 0, 0);
    if (bytes <= 0)
        return;
    if (line[bytes - 1] == '\n')
        bytes -= 1;
    line[bytes] = '\0';
    obey(line);
}

_Noreturn void init(void)
{
    struct system_poll files[] = {
        {.file = CONSOLE_IN, .wanted = SYSTEM_POLL_IN},
        {.file = (int32_t)open_server(), .wanted = SYSTEM_POLL_IN},
    };
    uint64_t count = 0;
    for (uint64_t next = system_nanos();;) {
        const uint64_t now = system_nanos();
        if (now >= next) {
            print_count(++count);
            next += BEAT_NANOS;
            continue;
        }
        const struct system_time wait = {.seconds = 0, .nanos = (int64_t)(next - now)};
        if (system_call(SYSTEM_PPOLL, (long)files, 2, (long)&wait, 0, 0, 0) <= 0)
            continue;
        if ((files[0].found & SYSTEM_POLL_IN) != 0)
            listen();
        if ((files[1].found & SYSTEM_POLL_IN) != 0)
            serve((int)files[1].file);
    }
}
