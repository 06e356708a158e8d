/* See ftvm_vmm.h. A message is two little-endian 32-bit lengths, a header (a msgpack array) and a payload. */
#define _GNU_SOURCE
#include "ftvm_vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define HEAD_BYTES 8u
#define HEADER_BYTES_MAX (64u << 10)
#define HELLO_BYTES_MAX 4096u /* 16 regions, four texts */
#define RETRY_NS 20000000L
#define DESCRIPTORS_MAX (FTVM_VMM_REGIONS_MAX + 2)
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* --- writing msgpack ------------------------------------------------------------------------------------------- */

typedef struct writer {
    uint8_t bytes[HELLO_BYTES_MAX];
    size_t length;
    bool is_full;
} writer;

static void put(writer *to, const void *bytes, size_t count)
{
    if (count > sizeof to->bytes - to->length) {
        to->is_full = true;
        return;
    }
    memcpy(to->bytes + to->length, bytes, count);
    to->length += count;
}

static void put_byte(writer *to, unsigned byte)
{
    uint8_t one = (uint8_t)byte;
    put(to, &one, 1);
}

static void put_array(writer *to, size_t count) /* at most 16 regions */
{
    put_byte(to, 0xdc);
    put_byte(to, (unsigned)(count >> 8));
    put_byte(to, (unsigned)(count & 255));
}

static void put_number(writer *to, uint64_t number)
{
    put_byte(to, 0xcf);
    for (int shift = 56; shift >= 0; shift -= 8)
        put_byte(to, (unsigned)(number >> shift & 255));
}

static void put_text(writer *to, const char *text)
{
    size_t bytes = strnlen(text, FTVM_VMM_TEXT_BYTES);
    put_byte(to, 0xda);
    put_byte(to, (unsigned)(bytes >> 8));
    put_byte(to, (unsigned)(bytes & 255));
    put(to, text, bytes);
}

static void begin(writer *to, size_t count, const char *name)
{
    to->length = 0;
    to->is_full = false;
    put_array(to, count);
    put_text(to, name);
}

/* --- reading msgpack ------------------------------------------------------------------------------------------- */

typedef struct reader {
    const uint8_t *at, *end;
} reader;

/* Reads a big-endian number of `bytes`. */
static bool take(reader *from, size_t bytes, uint64_t *number)
{
    if ((size_t)(from->end - from->at) < bytes)
        return false;
    for (*number = 0; bytes > 0; bytes--)
        *number = *number << 8 | *from->at++;
    return true;
}

static bool take_number(reader *from, uint64_t *number)
{
    uint64_t form;
    if (!take(from, 1, &form))
        return false;
    if (form < 0x80) {
        *number = form;
        return true;
    }
    return form >= 0xcc && form <= 0xcf && take(from, (size_t)1 << (form - 0xcc), number);
}

static bool take_flag(reader *from, bool *flag)
{
    uint64_t form;
    if (!take(from, 1, &form) || (form != 0xc2 && form != 0xc3))
        return false;
    *flag = form == 0xc3;
    return true;
}

/* Copies a text of less than `room` bytes, with a zero behind it; one that has a zero in it is refused. */
static bool take_text(reader *from, char *text, size_t room)
{
    uint64_t form, bytes;
    if (!take(from, 1, &form))
        return false;
    if (form >= 0xa0 && form < 0xc0)
        bytes = form & 31;
    else if (form < 0xd9 || form > 0xdb || !take(from, (size_t)1 << (form - 0xd9), &bytes))
        return false;
    if (bytes >= room || bytes > (uint64_t)(from->end - from->at) || memchr(from->at, 0, (size_t)bytes) != NULL)
        return false;
    memcpy(text, from->at, (size_t)bytes);
    text[bytes] = '\0';
    from->at += bytes;
    return true;
}

static bool take_array(reader *from, uint64_t *count)
{
    uint64_t form;
    if (!take(from, 1, &form))
        return false;
    if (form >= 0x90 && form < 0xa0) {
        *count = form & 15;
        return true;
    }
    return form == 0xdc && take(from, 2, count);
}

static const struct {
    const char *name;
    ftvm_vmm_kind kind;
} requests[] = {
    {"pause", FTVM_VMM_PAUSE}, {"resume", FTVM_VMM_RESUME}, {"save", FTVM_VMM_SAVE}, {"load", FTVM_VMM_LOAD},
    {"dirty", FTVM_VMM_DIRTY}, {"input", FTVM_VMM_INPUT}, {"announce", FTVM_VMM_ANNOUNCE}, {"end", FTVM_VMM_END},
};

static bool take_fields(reader *from, uint64_t count, ftvm_vmm_request *request)
{
    switch (request->kind) {
    case FTVM_VMM_PAUSE:
    case FTVM_VMM_SAVE:
    case FTVM_VMM_LOAD:
    case FTVM_VMM_DIRTY:
        return count == 2 && take_number(from, &request->number);
    case FTVM_VMM_RESUME:
        return count == 2 && take_flag(from, &request->stop_at_output);
    case FTVM_VMM_INPUT:
        return count == 2 && take_text(from, request->channel, sizeof request->channel);
    default:
        return count == 1;
    }
}

bool ftvm_vmm_parse(const uint8_t *header, size_t header_bytes, const uint8_t *payload, size_t payload_bytes,
                    ftvm_vmm_request *request)
{
    reader from = {header, header + header_bytes};
    char name[FTVM_VMM_NAME_BYTES + 1];
    uint64_t count;
    memset(request, 0, sizeof *request);
    if (!take_array(&from, &count) || !take_text(&from, name, sizeof name))
        return false;
    for (size_t row = 0; row < sizeof requests / sizeof *requests; row++)
        if (strcmp(name, requests[row].name) == 0)
            request->kind = requests[row].kind;
    if (request->kind == 0 || !take_fields(&from, count, request) || from.at != from.end)
        return false;
    if (payload_bytes > 0 && request->kind != FTVM_VMM_LOAD && request->kind != FTVM_VMM_INPUT)
        return false;
    request->payload = payload;
    request->payload_bytes = payload_bytes;
    return true;
}

/* --- the connection -------------------------------------------------------------------------------------------- */

static int fail(ftvm_vmm *vmm, int error, const char *what)
{
    snprintf(vmm->error, sizeof vmm->error, "%s: %s", what, strerror(error));
    return -error;
}

static void little(uint8_t *to, uint32_t number)
{
    for (int byte = 0; byte < 4; byte++)
        to[byte] = (uint8_t)(number >> 8 * byte);
}

static uint32_t from_little(const uint8_t *from)
{
    return from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

/* Sends all of a message, with descriptors beside its first byte. */
static int send_all(ftvm_vmm *vmm, const writer *header, const void *payload, size_t bytes, const int *fds,
                    size_t fd_count)
{
    uint8_t head[HEAD_BYTES];
    union {
        char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec parts[3] = {
        {head, sizeof head}, {(void *)(uintptr_t)header->bytes, header->length}, {(void *)(uintptr_t)payload, bytes}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
    if (header->is_full)
        return fail(vmm, EMSGSIZE, "a message is too long");
    little(head, (uint32_t)header->length);
    little(head + 4, (uint32_t)bytes);
    if (fd_count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(rights), fds, sizeof(int) * fd_count);
    }
    while (message.msg_iovlen > 0) {
        ssize_t sent = sendmsg(vmm->socket, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return fail(vmm, errno, "ftvm cannot be told");
        message.msg_control = NULL;
        message.msg_controllen = 0;
        size_t left = (size_t)sent;
        while (message.msg_iovlen > 0 && left >= message.msg_iov->iov_len) {
            left -= message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen > 0) {
            message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + left;
            message.msg_iov->iov_len -= left;
        }
    }
    return 0;
}

/* Makes room for a whole message of `wanted` bytes behind what was taken. */
static int make_room(ftvm_vmm *vmm, size_t wanted)
{
    memmove(vmm->buffer, vmm->buffer + vmm->taken, vmm->held - vmm->taken);
    vmm->held -= vmm->taken;
    vmm->taken = 0;
    if (wanted <= vmm->room)
        return 0;
    uint8_t *larger = realloc(vmm->buffer, wanted);
    if (larger == NULL)
        return fail(vmm, ENOMEM, "a message of ftvm");
    vmm->buffer = larger;
    vmm->room = wanted;
    return 0;
}

/* Returns 1 if a whole message is in the buffer, 0 if not. */
static int look(ftvm_vmm *vmm, size_t *header_bytes, size_t *payload_bytes)
{
    size_t there = vmm->held - vmm->taken;
    if (there < HEAD_BYTES)
        return 0;
    *header_bytes = from_little(vmm->buffer + vmm->taken);
    *payload_bytes = from_little(vmm->buffer + vmm->taken + 4);
    if (*header_bytes > HEADER_BYTES_MAX || *payload_bytes > FTVM_VMM_DEVICES_BYTES_MAX)
        return fail(vmm, EPROTO, "ftvm sent a message that is too long");
    size_t whole = HEAD_BYTES + *header_bytes + *payload_bytes;
    if (there >= whole)
        return 1;
    return make_room(vmm, whole);
}

/* Waits for a message and takes it. As ftvm_vmm_next. */
static int receive(ftvm_vmm *vmm, int timeout_ms, const uint8_t **header, size_t *header_bytes, const uint8_t **payload,
                   size_t *payload_bytes)
{
    for (;;) {
        int is_whole = look(vmm, header_bytes, payload_bytes);
        if (is_whole < 0)
            return is_whole;
        if (is_whole) {
            *header = vmm->buffer + vmm->taken + HEAD_BYTES;
            *payload = *header + *header_bytes;
            vmm->taken += HEAD_BYTES + *header_bytes + *payload_bytes;
            return 1;
        }
        if (vmm->held == vmm->room && make_room(vmm, vmm->room) < 0)
            return -ENOMEM;
        struct pollfd readable = {.fd = vmm->socket, .events = POLLIN};
        int ready = poll(&readable, 1, timeout_ms);
        if (ready < 0 && errno != EINTR)
            return fail(vmm, errno, "ftvm cannot be heard");
        if (ready <= 0)
            return 0;
        ssize_t got = recv(vmm->socket, vmm->buffer + vmm->held, vmm->room - vmm->held, 0);
        if (got == 0)
            return fail(vmm, EPIPE, "ftvm has ended");
        if (got < 0 && errno != EINTR)
            return fail(vmm, errno, "ftvm cannot be heard");
        vmm->held += got > 0 ? (size_t)got : 0;
    }
}

int ftvm_vmm_next(ftvm_vmm *vmm, int timeout_ms, ftvm_vmm_request *request)
{
    const uint8_t *header, *payload;
    size_t header_bytes, payload_bytes;
    int got = receive(vmm, timeout_ms, &header, &header_bytes, &payload, &payload_bytes);
    if (got > 0 && !ftvm_vmm_parse(header, header_bytes, payload, payload_bytes, request))
        return fail(vmm, EPROTO, "ftvm sent what is no request of this version");
    return got;
}

/* --- saying ---------------------------------------------------------------------------------------------------- */

int ftvm_vmm_answer(ftvm_vmm *vmm, const ftvm_vmm_request *request, const char *refusal, const void *payload,
                    size_t bytes)
{
    static const char *const names[] = {
        [FTVM_VMM_PAUSE] = "paused",
        [FTVM_VMM_SAVE] = "saved",
        [FTVM_VMM_LOAD] = "loaded",
        [FTVM_VMM_DIRTY] = "written",
    };
    writer message;
    if (request->kind > FTVM_VMM_DIRTY || names[request->kind] == NULL || bytes > UINT32_MAX)
        return fail(vmm, EINVAL, "there is no such answer");
    begin(&message, 3, names[request->kind]);
    put_number(&message, request->number);
    put_text(&message, refusal == NULL ? "" : refusal);
    return send_all(vmm, &message, payload, bytes, NULL, 0);
}

int ftvm_vmm_output(ftvm_vmm *vmm, const char *channel, const void *payload, size_t bytes)
{
    writer message;
    if (bytes > FTVM_VMM_OUTPUT_BYTES_MAX)
        return fail(vmm, EMSGSIZE, "an output is too long");
    begin(&message, 3, "output");
    put_number(&message, ++vmm->outputs);
    put_text(&message, channel);
    return send_all(vmm, &message, payload, bytes, NULL, 0);
}

static int say(ftvm_vmm *vmm, const char *what, const char *reason)
{
    writer message;
    begin(&message, 2, what);
    put_text(&message, reason);
    return send_all(vmm, &message, NULL, 0, NULL, 0);
}

int ftvm_vmm_ended(ftvm_vmm *vmm, const char *reason)
{
    return say(vmm, "ended", reason);
}

int ftvm_vmm_failed(ftvm_vmm *vmm, const char *reason)
{
    return say(vmm, "failed", reason);
}

/* --- coming together ------------------------------------------------------------------------------------------- */

int ftvm_vmm_region_make(ftvm_vmm_region *region, const char *name, uint64_t page_count)
{
    if (page_count > SIZE_MAX / FTVM_VMM_PAGE_BYTES)
        return -EINVAL;
    size_t bytes = (size_t)page_count * FTVM_VMM_PAGE_BYTES;
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    void *memory = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        int error = errno;
        close(fd);
        return -error;
    }
    *region = (ftvm_vmm_region){name, memory, page_count, fd};
    return 0;
}

static int dial(ftvm_vmm *vmm, const char *path, unsigned seconds)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timespec wait = {0, RETRY_NS};
    if (strlen(path) >= sizeof address.sun_path)
        return fail(vmm, ENAMETOOLONG, path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    for (long tries = (long)seconds * (1000000000L / RETRY_NS);; tries--) {
        vmm->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (vmm->socket < 0)
            return fail(vmm, errno, "socket");
        if (connect(vmm->socket, (struct sockaddr *)&address, sizeof address) == 0)
            return 0;
        int error = errno;
        close(vmm->socket);
        vmm->socket = -1;
        if (tries <= 0 || (error != ENOENT && error != ECONNREFUSED && error != EINTR))
            return fail(vmm, error, path);
        nanosleep(&wait, NULL);
    }
}

static int send_hello(ftvm_vmm *vmm, const ftvm_vmm_hello *hello)
{
    static const char *const trackings[] = {"compare", "bitmap", "userfault"};
    int fds[DESCRIPTORS_MAX], own[2] = {-1, -1};
    size_t fd_count = 0;
    writer message;
    begin(&message, 8, "hello");
    put_number(&message, FTVM_VMM_VERSION);
    put_text(&message, hello->kind);
    put_text(&message, hello->software);
    put_text(&message, hello->machine);
    put_array(&message, hello->region_count);
    for (size_t number = 0; number < hello->region_count; number++) {
        const ftvm_vmm_region *region = &hello->regions[number];
        put_array(&message, 3);
        put_text(&message, region->name);
        put_number(&message, region->page_count);
        put_number(&message, (uint64_t)(uintptr_t)region->memory);
        fds[fd_count++] = region->memfd;
    }
    put_text(&message, trackings[hello->tracking]);
    put_byte(&message, hello->stops_at_outputs ? 0xc3 : 0xc2);
    int error = 0;
    if (hello->tracking == FTVM_VMM_USERFAULT) {
        own[0] = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
        if (own[0] < 0)
            error = fail(vmm, errno, "userfaultfd");
        own[1] = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        if (own[1] < 0)
            error = fail(vmm, errno, "/proc/self/pagemap");
        fds[fd_count++] = own[0];
        fds[fd_count++] = own[1];
    }
    if (error == 0)
        error = send_all(vmm, &message, NULL, 0, fds, fd_count);
    for (int each = 0; each < 2; each++)
        if (own[each] >= 0)
            close(own[each]); /* ftvm has its own by now */
    return error;
}

static int take_welcome(ftvm_vmm *vmm)
{
    const uint8_t *header, *payload;
    size_t header_bytes, payload_bytes;
    char name[FTVM_VMM_NAME_BYTES + 1], reason[FTVM_VMM_TEXT_BYTES * 4 + 1];
    uint64_t count, version;
    int got;
    while ((got = receive(vmm, -1, &header, &header_bytes, &payload, &payload_bytes)) == 0)
        ;
    if (got < 0)
        return got;
    reader from = {header, header + header_bytes};
    if (!take_array(&from, &count) || !take_text(&from, name, sizeof name))
        return fail(vmm, EPROTO, "ftvm sent no welcome");
    if (strcmp(name, "refused") == 0 && count == 2 && take_text(&from, reason, sizeof reason)) {
        snprintf(vmm->error, sizeof vmm->error, "ftvm refused: %.200s", reason);
        return -EPROTO;
    }
    if (strcmp(name, "welcome") != 0 || count != 3 || !take_number(&from, &version) || version != FTVM_VMM_VERSION ||
        !take_flag(&from, &vmm->boots))
        return fail(vmm, EPROTO, "ftvm sent no welcome");
    return 0;
}

int ftvm_vmm_open(ftvm_vmm *vmm, const char *path, const ftvm_vmm_hello *hello, unsigned seconds)
{
    memset(vmm, 0, sizeof *vmm);
    vmm->socket = -1;
    if (hello->region_count == 0 || hello->region_count > FTVM_VMM_REGIONS_MAX)
        return fail(vmm, EINVAL, "a guest has 1 to 16 regions");
    vmm->room = HEADER_BYTES_MAX;
    vmm->buffer = malloc(vmm->room);
    int error = vmm->buffer == NULL ? fail(vmm, ENOMEM, "buffer") : dial(vmm, path, seconds);
    if (error == 0)
        error = send_hello(vmm, hello);
    if (error == 0)
        error = take_welcome(vmm);
    if (error < 0)
        ftvm_vmm_close(vmm);
    return error;
}

size_t ftvm_vmm_bitmap_bytes(uint64_t page_count)
{
    return (size_t)((page_count + 63) / 64 * 8);
}

void ftvm_vmm_close(ftvm_vmm *vmm)
{
    if (vmm->socket >= 0)
        close(vmm->socket);
    vmm->socket = -1;
    free(vmm->buffer);
    vmm->buffer = NULL;
    vmm->held = vmm->taken = vmm->room = 0;
}
