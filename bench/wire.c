/* The wire without Python: who asks the key-value guest, straight on its cable, and what one machine does at best.
 *
 *     wire kv LOCAL REMOTE CLIENTS   clients that each ask again as soon as they are answered; a JSON line each 100 ms
 *     wire udp-echo LOCAL REMOTE     answers every request at once: as fast as a guest could ever be
 *     wire tcp-echo                  prints {"port": N}; sends back what comes
 *     wire tcp-ping PORT COUNT       prints {"round_trips": HISTOGRAM}
 *
 * LOCAL and REMOTE are UDP ports of this machine. Frames are Ethernet, IPv4 and UDP in one datagram, as
 * ftvm/lab/packets.py and kv.py have them. A client that hears nothing repeats its request after 50 ms, then every
 * 100 ms, and each repetition is counted. Requests go to where the last frame came from, so that they follow a guest.
 * A histogram is {"BUCKET": COUNT, ...}: of nanoseconds, 256 buckets to each power of two (bench/figures.py).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CLIENTS_MAX = 256,
    FRAME_MAX = 2048,
    UDP_PAYLOAD = 14 + 20 + 8,
    HEADER = 28,
    KEY = 7,
    VALUE = 64,
    STEPS_LOG = 8,
    STEPS = 1 << STEPS_LOG,
    BUCKETS = 64 * STEPS,
    PING = 64,
};

static const uint64_t LINE_NS = 100000000, REPEAT_NS_FIRST = 50000000, REPEAT_NS = 100000000;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void fail(const char *what)
{
    perror(what);
    exit(2);
}

static uint64_t number_of(const char *text, uint64_t max)
{
    char *end;
    uint64_t number = strtoull(text, &end, 10);
    if (*text == 0 || *end != 0 || number > max) {
        fprintf(stderr, "%s is no number of at most %" PRIu64 "\n", text, max);
        exit(2);
    }
    return number;
}

/* --- histograms --- */

static uint32_t buckets[BUCKETS];

static void count(uint64_t ns)
{
    unsigned power = 63u - (unsigned)__builtin_clzll(ns | STEPS);
    buckets[power * STEPS + ((ns >> (power - STEPS_LOG)) & (STEPS - 1))]++;
}

static void print_buckets(void)
{
    const char *comma = "";
    putchar('{');
    for (unsigned i = 0; i < BUCKETS; i++) {
        if (buckets[i] != 0) {
            printf("%s\"%u\": %u", comma, i, buckets[i]);
            comma = ", ";
        }
    }
    putchar('}');
}

/* --- frames --- */

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put64(uint8_t *at, uint64_t value)
{
    for (int i = 7; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

static uint64_t get64(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

static unsigned checksum(const uint8_t *at, size_t bytes)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < bytes; i += 2)
        sum += (uint32_t)at[i] << 8 | at[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return ~sum & 0xffff;
}

/* Builds a PUT or GET in turn; the same request for the same client and number, however often it is repeated. */
static size_t build_request(uint8_t *frame, uint64_t client, uint64_t number)
{
    static const uint8_t guest[6] = {0x52, 0x54, 0, 0x77, 0, 2}, ours[6] = {0x52, 0x54, 0, 0x77, 0, 9};
    static const uint8_t addresses[8] = {10, 77, 0, 9, 10, 77, 0, 2};
    uint8_t *ip = frame + 14, *udp = ip + 20, *request = udp + 8;
    unsigned is_put = (unsigned)(number + client) & 1, value = is_put ? VALUE : 0, bytes = HEADER + KEY + value;

    memset(frame, 0, UDP_PAYLOAD + bytes);
    memcpy(frame, guest, 6);
    memcpy(frame + 6, ours, 6);
    put16(frame + 12, 0x0800);
    ip[0] = 0x45;
    put16(ip + 2, 28 + bytes);
    ip[8] = 64;
    ip[9] = 17;
    memcpy(ip + 12, addresses, 8);
    put16(ip + 10, checksum(ip, 20));
    put16(udp, 40000);
    put16(udp + 2, 7000);
    put16(udp + 4, 8 + bytes); /* no checksum: 0 */
    memcpy(request, "FTKV", 4);
    request[4] = 1;
    request[5] = is_put ? 1 : 2;
    put16(request + 6, KEY);
    put64(request + 8, client);
    put64(request + 16, number);
    put16(request + 24, value);
    char key[KEY + 1];
    snprintf(key, sizeof key, "k%06x", (unsigned)((number * 31 + client * 7) & 63));
    memcpy(request + HEADER, key, KEY);
    memset(request + HEADER + KEY, 'a' + (int)(number % 26), value);
    return UDP_PAYLOAD + bytes;
}

static int open_udp(uint64_t port)
{
    int s = socket(AF_INET, SOCK_DGRAM, 0), bytes = 1 << 20;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (s < 0)
        fail("socket");
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    if (bind(s, (struct sockaddr *)&address, sizeof address) != 0)
        fail("bind");
    return s;
}

/* --- clients --- */

static struct {
    uint64_t number, asked_at, repeat_at;
} clients[CLIENTS_MAX];

static struct sockaddr_in guest;
static uint64_t answered, repeated, base;

static void ask(int s, unsigned client)
{
    uint8_t frame[FRAME_MAX];
    size_t bytes = build_request(frame, base + client, clients[client].number);
    /* A frame that does not leave is lost, as on a wire: it is repeated. */
    (void)!sendto(s, frame, bytes, 0, (struct sockaddr *)&guest, sizeof guest);
}

static void ask_next(int s, unsigned client, uint64_t now)
{
    clients[client].number++;
    clients[client].asked_at = now;
    clients[client].repeat_at = now + REPEAT_NS_FIRST;
    ask(s, client);
}

static void take_answers(int s, unsigned client_count, uint64_t *last_at, uint64_t *gap_ns)
{
    uint8_t frame[FRAME_MAX];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t bytes;
    while ((bytes = recvfrom(s, frame, sizeof frame, MSG_DONTWAIT, (struct sockaddr *)&from, &length)) >= 0) {
        guest.sin_port = from.sin_port;
        length = sizeof from;
        if (bytes < UDP_PAYLOAD + HEADER || memcmp(frame + UDP_PAYLOAD, "FTKR", 4) != 0)
            continue;
        uint64_t client = get64(frame + UDP_PAYLOAD + 8) - base, now = now_ns();
        if (client >= client_count || get64(frame + UDP_PAYLOAD + 16) != clients[client].number)
            continue; /* the answer to a repetition that was answered already */
        count(now - clients[client].asked_at);
        answered++;
        if (*last_at != 0 && now - *last_at > *gap_ns)
            *gap_ns = now - *last_at;
        *last_at = now;
        ask_next(s, (unsigned)client, now);
    }
}

static void print_line(uint64_t now, uint64_t gap_ns)
{
    printf("{\"at\": %" PRIu64 ", \"answered\": %" PRIu64 ", \"repeated\": %" PRIu64 ", \"gap_ns\": %" PRIu64, now,
           answered, repeated, gap_ns);
    printf(", \"latencies\": ");
    print_buckets();
    printf("}\n");
    fflush(stdout);
}

static _Noreturn void run_clients(uint64_t local, uint64_t remote, unsigned client_count)
{
    int s = open_udp(local);
    guest = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)remote)};
    guest.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    base = (uint64_t)getpid() << 20;
    uint64_t line_at = now_ns() + LINE_NS, last_at = 0, gap_ns = 0;
    for (unsigned i = 0; i < client_count; i++)
        ask_next(s, i, now_ns());
    for (;;) {
        uint64_t now = now_ns(), due = line_at;
        for (unsigned i = 0; i < client_count; i++) {
            if (clients[i].repeat_at <= now) {
                clients[i].repeat_at = now + REPEAT_NS;
                repeated++;
                ask(s, i);
            }
            due = clients[i].repeat_at < due ? clients[i].repeat_at : due;
        }
        struct pollfd ready = {.fd = s, .events = POLLIN};
        uint64_t left = due > now ? due - now : 0;
        struct timespec wait = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
        ppoll(&ready, 1, &wait, NULL);
        take_answers(s, client_count, &last_at, &gap_ns);
        if ((now = now_ns()) >= line_at) {
            if (last_at != 0 && now - last_at > gap_ns)
                gap_ns = now - last_at; /* a gap that lasts */
            print_line(now, gap_ns);
            line_at = now + LINE_NS;
            gap_ns = 0;
        }
    }
}

/* --- the best that this machine does --- */

static _Noreturn void echo_udp(uint64_t local, uint64_t remote)
{
    int s = open_udp(local);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)remote)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    printf("{\"port\": %" PRIu64 "}\n", local);
    fflush(stdout);
    uint8_t frame[FRAME_MAX];
    for (;;) {
        ssize_t bytes = recv(s, frame, sizeof frame, 0);
        if (bytes < UDP_PAYLOAD + HEADER)
            continue;
        memcpy(frame + UDP_PAYLOAD, "FTKR", 4);
        (void)!sendto(s, frame, (size_t)bytes, 0, (struct sockaddr *)&to, sizeof to);
    }
}

static int without_delay(int s)
{
    int yes = 1;
    if (s < 0 || setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0)
        fail("TCP");
    return s;
}

static int echo_tcp(void)
{
    int s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(s, (struct sockaddr *)&address, sizeof address) != 0 || listen(s, 1) != 0)
        fail("listen");
    if (getsockname(s, (struct sockaddr *)&address, &length) != 0)
        fail("getsockname");
    printf("{\"port\": %u}\n", ntohs(address.sin_port));
    fflush(stdout);
    int peer = without_delay(accept(s, NULL, NULL));
    uint8_t content[PING];
    ssize_t bytes;
    while ((bytes = recv(peer, content, sizeof content, 0)) > 0)
        if (send(peer, content, (size_t)bytes, 0) != bytes)
            fail("send");
    return 0;
}

static int ping_tcp(uint64_t port, uint64_t rounds)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int s = without_delay(socket(AF_INET, SOCK_STREAM, 0));
    if (connect(s, (struct sockaddr *)&address, sizeof address) != 0)
        fail("connect");
    uint8_t content[PING] = {0};
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t started = now_ns();
        if (send(s, content, PING, 0) != PING || recv(s, content, PING, MSG_WAITALL) != PING)
            fail("ping");
        count(now_ns() - started);
    }
    printf("{\"round_trips\": ");
    print_buckets();
    printf("}\n");
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "kv") == 0)
        run_clients(number_of(argv[2], 65535), number_of(argv[3], 65535), (unsigned)number_of(argv[4], CLIENTS_MAX));
    if (argc == 4 && strcmp(argv[1], "udp-echo") == 0)
        echo_udp(number_of(argv[2], 65535), number_of(argv[3], 65535));
    if (argc == 2 && strcmp(argv[1], "tcp-echo") == 0)
        return echo_tcp();
    if (argc == 4 && strcmp(argv[1], "tcp-ping") == 0)
        return ping_tcp(number_of(argv[2], 65535), number_of(argv[3], 1u << 30));
    fprintf(stderr, "see the head of bench/wire.c for how it is called\n");
    return 2;
}
