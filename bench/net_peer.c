/* The two ends of a measurement of TCP: one program, static, that runs in the guest and beside it.
 *
 *     net_peer serve PORT                    for ever: the first byte of a connection says what is wanted of it
 *     net_peer send|receive HOST PORT SECONDS    bulk from here to there, or back: prints Mbit/s, as the receiver counts
 *     net_peer ask HOST PORT SECONDS         requests of one byte, one after the other: prints the mean in ms
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char bytes[1 << 17];

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Reads until the other end has closed. Returns how many bytes came. */
static uint64_t sink(int link)
{
    uint64_t total = 0;
    ssize_t came;
    while ((came = read(link, bytes, sizeof bytes)) > 0)
        total += (uint64_t)came;
    return total;
}

static void serve_one(int link)
{
    char wanted;
    if (read(link, &wanted, 1) != 1)
        return;
    if (wanted == 's') { /* what came, once it is known that no more does */
        uint64_t total = sink(link);
        if (write(link, &total, sizeof total) < 0)
            return;
    } else if (wanted == 'r') {
        while (write(link, bytes, sizeof bytes) > 0)
            ;
    } else {
        while (read(link, bytes, 1) == 1 && write(link, bytes, 1) == 1)
            ;
    }
}

static void serve(uint16_t port)
{
    int listening = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listening, (struct sockaddr *)&at, sizeof at) < 0 || listen(listening, 8) < 0)
        die("listen");
    for (;;) {
        int link = accept(listening, NULL, NULL);
        if (link < 0)
            continue;
        setsockopt(link, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (fork() == 0) {
            close(listening);
            serve_one(link);
            _exit(0);
        }
        close(link);
    }
}

static double measure(char wanted, int link, double seconds)
{
    double began = now(), ends = began + seconds;
    uint64_t total = 0;
    if (wanted == 's') {
        while (now() < ends && write(link, bytes, sizeof bytes) > 0)
            ;
        shutdown(link, SHUT_WR);
        if (recv(link, &total, sizeof total, MSG_WAITALL) != sizeof total)
            die("the count of the other end");
    } else if (wanted == 'r') {
        while (now() < ends) {
            ssize_t came = read(link, bytes, sizeof bytes);
            if (came <= 0)
                die("read");
            total += (uint64_t)came;
        }
    } else {
        for (; now() < ends; total++)
            if (write(link, bytes, 1) != 1 || read(link, bytes, 1) != 1)
                die("ask");
        return (now() - began) / (double)total * 1e3;
    }
    return (double)total * 8e-6 / (now() - began);
}

int main(int count, char **words)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    if (count == 3 && strcmp(words[1], "serve") == 0)
        serve((uint16_t)atoi(words[2]));
    if (count != 5)
        return 2;
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[3]))};
    struct timeval patience = {.tv_sec = 20};
    int link = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    inet_aton(words[2], &there.sin_addr);
    setsockopt(link, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(link, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(link, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(link, (struct sockaddr *)&there, sizeof there) < 0)
        die("connect");
    char wanted = words[1][0];
    if (write(link, &wanted, 1) != 1)
        die("write");
    printf("%.3f\n", measure(wanted, link, atof(words[4])));
    return 0;
}
