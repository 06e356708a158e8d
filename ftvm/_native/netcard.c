#define _GNU_SOURCE
#include "netcard.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

#define CARD_NAME "card"
#define CARD_MTU 65521 /* the largest: what the guest sends is as long as the guest's card allows, not ours */
#define SOCKET_BUFFER_BYTES (4 << 20)

/* Opens a tap device with the header of virtio-net. Returns the descriptor or a negative errno. */
static int open_tap(const char *name)
{
    int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tap < 0)
        return -errno;
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int header_bytes = (int)FTVM_NETCARD_HEADER_BYTES;
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(tap, TUNSETIFF, &request) < 0 || ioctl(tap, TUNSETVNETHDRSZ, &header_bytes) < 0) {
        int wrong = -errno;
        close(tap);
        return wrong;
    }
    return tap;
}

int ftvm_netcard_attach(const char *name)
{
    int tap = open_tap(name);
    if (tap < 0)
        return tap;
    /* What this host hands over may be large segments without a checksum: the guest's card takes them so. Where the
     * guest does not, the card's own device makes plain frames of them. */
    if (ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN) < 0) {
        int wrong = -errno;
        close(tap);
        return wrong;
    }
    return tap;
}

/* Has interfaces that are made in this thread's namespace know no IPv6. Returns 0 or a negative errno. */
static int turn_ipv6_off(void)
{
    int file = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return errno == ENOENT ? 0 : -errno; /* this system has none */
    int wrong = write(file, "1", 1) == 1 ? 0 : -errno;
    close(file);
    return wrong;
}

/* Brings the card's device up, without ARP. Returns 0, or -1 with errno. */
static int bring_up(int any_socket)
{
    struct ifreq request = {.ifr_name = CARD_NAME, .ifr_mtu = CARD_MTU};
    if (ioctl(any_socket, SIOCSIFMTU, &request) < 0)
        return -1;
    request.ifr_flags = IFF_UP | IFF_NOARP;
    return ioctl(any_socket, SIOCSIFFLAGS, &request);
}

/* Brings the card's device up, and opens a packet socket on it. Returns the descriptor or a negative errno. */
static int open_socket(void)
{
    int made = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (made < 0)
        return -errno;
    int one = 1, room = SOCKET_BUFFER_BYTES;
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    address.sll_ifindex = (int)if_nametoindex(CARD_NAME);
    if (setsockopt(made, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) < 0)
        setsockopt(made, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    if (setsockopt(made, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) < 0)
        setsockopt(made, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    if (setsockopt(made, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) < 0 ||
        setsockopt(made, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one) < 0 ||
        setsockopt(made, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) < 0 ||
        bring_up(made) < 0 || /* first: a socket on a device that is down has an error to tell */
        bind(made, (const struct sockaddr *)&address, sizeof address) < 0) {
        int wrong = -errno;
        close(made);
        return wrong;
    }
    return made;
}

struct making {
    int tap, socket, wrong;
    enum ftvm_netcard_step step;
};

/* In a separate thread: the namespace is a thread's, and ends with its last thread, device and descriptor. */
static void *make(void *argument)
{
    struct making *making = argument;
    making->step = FTVM_NETCARD_NAMESPACE;
    making->wrong = unshare(CLONE_NEWNET) < 0 ? -errno : turn_ipv6_off();
    if (making->wrong != 0)
        return NULL;
    making->step = FTVM_NETCARD_TAP;
    making->tap = open_tap(CARD_NAME);
    if (making->tap < 0) {
        making->wrong = making->tap;
        return NULL;
    }
    making->step = FTVM_NETCARD_SOCKET;
    making->socket = open_socket();
    if (making->socket < 0) {
        making->wrong = making->socket;
        close(making->tap);
    }
    return NULL;
}

int ftvm_netcard_make(int *tap, int *socket, enum ftvm_netcard_step *step)
{
    struct making making = {.tap = -1, .socket = -1};
    pthread_t maker;
    int wrong = pthread_create(&maker, NULL, make, &making);
    if (wrong != 0) {
        *step = FTVM_NETCARD_NAMESPACE;
        return -wrong;
    }
    pthread_join(maker, NULL);
    *step = making.step;
    *tap = making.tap;
    *socket = making.socket;
    return making.wrong;
}
