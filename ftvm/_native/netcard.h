/* netcard: the two ends of a guest's network card that is a tap device, with what it offloads (checksums, large
 * segments), and of the interface of this host that it reaches the world by.
 *
 * The card's tap lies in its own network namespace, without addresses and without IPv6: nothing of this host
 * answers what the guest sends there. Frames have the header of virtio-net before them, of FTVM_NETCARD_HEADER_BYTES.
 *
 * Source: Linux, Documentation/networking/tuntap.rst; packet(7).
 */
#ifndef FTVM_NETCARD_H
#define FTVM_NETCARD_H

#define FTVM_NETCARD_HEADER_BYTES 10u

/* What failed. */
enum ftvm_netcard_step {
    FTVM_NETCARD_NAMESPACE = 1, /* no network namespace can be made, or its IPv6 cannot be turned off */
    FTVM_NETCARD_TAP = 2,       /* no tap device can be made, or it is not to be had */
    FTVM_NETCARD_SOCKET = 3,    /* no packet socket can be opened on it */
};

/* Makes the card. *tap is for who emulates it (QEMU), *socket our end: a packet socket, which does not block. Both stay
 * the caller's; the device goes with the last descriptor of the tap. Needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
 *
 * Returns 0, or the negative errno of *step; nothing is open then. */
int ftvm_netcard_make(int *tap, int *socket, enum ftvm_netcard_step *step);

/* Opens the tap device `name` of this host's own network, which is made if it is missing; it does not block.
 * Returns the descriptor, or a negative errno: -EBUSY when another process has it open, -EINVAL when it is no tap. */
int ftvm_netcard_attach(const char *name);

#endif
