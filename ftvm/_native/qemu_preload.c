/* qemu_preload: what ftvm needs done inside an unmodified QEMU before it starts; given to it by LD_PRELOAD.
 *
 * Two things that only the process itself can do, both done before main and leaving nothing behind: it asks the kernel
 * to end it when the thread that started it ends (FTVM_PARENT_PID holds that process's id), and it makes a userfaultfd
 * for its own memory and sends it, as SCM_RIGHTS, over the socket whose number stands in FTVM_USERFAULT_SOCKET; all
 * else about tracking is done from outside with that descriptor. A byte without a descriptor says that the kernel
 * refused, and its value is the errno. Nothing here runs once main has begun, and processes that QEMU starts are not
 * touched.
 *
 * Facts: userfaultfd(2), prctl(2), unix(7), ld.so(8).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static void die_with_parent(const char *parent)
{
    if (parent == NULL)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != (pid_t)strtol(parent, NULL, 10))
        _exit(EXIT_FAILURE); /* it ended before the kernel was asked */
}

static void descriptor_send(int socket, int descriptor, unsigned char error)
{
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof descriptor)];
    } control;
    struct iovec content = {.iov_base = &error, .iov_len = 1};
    struct msghdr message = {.msg_iov = &content, .msg_iovlen = 1};
    if (descriptor >= 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof descriptor);
        memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
    }
    while (sendmsg(socket, &message, MSG_NOSIGNAL) < 0 && errno == EINTR)
        continue;
}

static void userfault_hand_out(const char *number)
{
    if (number == NULL)
        return;
    const int socket = (int)strtol(number, NULL, 10);
    const int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    descriptor_send(socket, descriptor, descriptor < 0 ? (unsigned char)errno : 0);
    if (descriptor >= 0)
        close(descriptor);
    close(socket);
}

__attribute__((constructor)) static void prepare(void)
{
    die_with_parent(getenv("FTVM_PARENT_PID"));
    userfault_hand_out(getenv("FTVM_USERFAULT_SOCKET"));
    unsetenv("FTVM_PARENT_PID");
    unsetenv("FTVM_USERFAULT_SOCKET");
    unsetenv("LD_PRELOAD");
}
