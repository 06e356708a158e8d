/* A client of ftvm's hand-over protocol: one header, one source file, the C library and Linux alone.
 *
 * A monitor (a program that runs a guest) hands its guest over to ftvm with it: ftvm pauses the guest, ships what it
 * wrote, keeps its outputs until that is safe, and has it go on in another process on another host. The protocol is
 * docs/handover.md; this header is the manual of the client. Not for several threads at once.
 *
 * The monitor's duties, in order:
 *   1. make each region of the guest's memory with ftvm_vmm_region_make, and run the guest on nothing else;
 *   2. ftvm_vmm_open; if `boots` is true put the program into the memory, else leave the memory zero; do it before the
 *      first call of ftvm_vmm_next: ftvm's first request asks whether it is there;
 *   3. stand still, and answer each request of ftvm_vmm_next: see ftvm_vmm_kind;
 *   4. give every output to ftvm_vmm_output, in order, and let none out of the process in another way;
 *   5. when ftvm_vmm_next says that the connection has ended, stop the guest for good: it may run elsewhere by now.
 */
#ifndef FTVM_VMM_H
#define FTVM_VMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FTVM_VMM_VERSION 1
#define FTVM_VMM_PAGE_BYTES 4096
#define FTVM_VMM_NAME_BYTES 64       /* names and channels, at most, without the zero behind them */
#define FTVM_VMM_TEXT_BYTES 1024     /* reasons, at most */
#define FTVM_VMM_REGIONS_MAX 16
#define FTVM_VMM_DEVICES_BYTES_MAX (16u << 20)
#define FTVM_VMM_OUTPUT_BYTES_MAX (1u << 20)

/* A piece of the guest's memory, zero at first. */
typedef struct ftvm_vmm_region {
    const char *name;    /* letters, digits, - _ . + */
    uint8_t *memory;     /* where this process has it */
    uint64_t page_count; /* its size, in pages of 4 KiB */
    int memfd;           /* sealed against shrinking and growing */
} ftvm_vmm_region;

/* How ftvm learns which pages the guest has written. */
typedef enum ftvm_vmm_tracking {
    FTVM_VMM_COMPARE,   /* it compares all pages with a copy: slow, and no work for the monitor */
    FTVM_VMM_BITMAP,    /* it asks the monitor: FTVM_VMM_DIRTY */
    FTVM_VMM_USERFAULT, /* it asks the kernel, by a userfaultfd of this process; Linux 6.7 */
} ftvm_vmm_tracking;

/* What the monitor says of itself. All but `regions` must be equal on both hosts. */
typedef struct ftvm_vmm_hello {
    const char *kind;             /* of the monitor: a name, e.g. "kv" */
    const char *software;         /* its version: a name, e.g. "1.0" */
    const char *machine;          /* what must be equal to load saved devices, up to 700 characters: "cpu=v3 net=1" */
    const ftvm_vmm_region *regions;
    size_t region_count;          /* 1 to FTVM_VMM_REGIONS_MAX */
    ftvm_vmm_tracking tracking;
    bool stops_at_outputs;        /* it can pause by itself right behind the instruction that makes an output */
} ftvm_vmm_hello;

/* What ftvm asks for. */
typedef enum ftvm_vmm_kind {
    FTVM_VMM_PAUSE = 1, /* stand still (it may already): no instruction, write or output; then ftvm_vmm_answer */
    FTVM_VMM_RESUME,    /* run; with `stop_at_output` pause by itself behind the first output. No answer */
    FTVM_VMM_SAVE,      /* answer with everything outside memory that the guest's future depends on; paused */
    FTVM_VMM_LOAD,      /* become the machine that `payload` describes, on the memory as it is; paused. If it does not
                           load: answer with a refusal, and be as before */
    FTVM_VMM_DIRTY,     /* answer with ftvm_vmm_written bitmaps, and clear them; paused. With FTVM_VMM_BITMAP alone */
    FTVM_VMM_INPUT,     /* `payload` came from outside on `channel`; drop it if there is no room, or no such channel. No
                           answer. While the guest stands behind an output: keep it outside of memory and devices */
    FTVM_VMM_ANNOUNCE,  /* the guest goes on in this process: its card may tell the network so. No answer */
    FTVM_VMM_END,       /* ftvm is done: stop the guest for good. The connection ends behind it */
} ftvm_vmm_kind;

typedef struct ftvm_vmm_request {
    ftvm_vmm_kind kind;
    uint64_t number;                       /* for the answer */
    bool stop_at_output;                   /* FTVM_VMM_RESUME */
    char channel[FTVM_VMM_NAME_BYTES + 1]; /* FTVM_VMM_INPUT */
    const uint8_t *payload;                /* FTVM_VMM_LOAD, FTVM_VMM_INPUT; until the next call of ftvm_vmm_next */
    size_t payload_bytes;
} ftvm_vmm_request;

/* A connection. `error` says what went wrong last, for people. */
typedef struct ftvm_vmm {
    int socket;
    bool boots;       /* this guest starts here; else its state comes by FTVM_VMM_LOAD */
    uint64_t outputs; /* how many were given */
    uint8_t *buffer;  /* what was received */
    size_t held, taken, room;
    char error[256];
} ftvm_vmm;

/* Makes zeroed shared memory of so many pages, seals its size and maps it. Returns 0 or a negative errno. */
int ftvm_vmm_region_make(ftvm_vmm_region *region, const char *name, uint64_t page_count);

/* Connects to the socket at `path`, tries again for up to `seconds` while nobody listens, and says hello.
 * Returns 0, or a negative errno with `error` filled: nothing is open then. The regions stay the caller's. */
int ftvm_vmm_open(ftvm_vmm *vmm, const char *path, const ftvm_vmm_hello *hello, unsigned seconds);

/* Waits up to `timeout_ms` (-1: for ever) for the next request. Returns 1 if there is one, 0 if not, a negative errno
 * with `error` filled if the connection has ended: the guest must never run again then. */
int ftvm_vmm_next(ftvm_vmm *vmm, int timeout_ms, ftvm_vmm_request *request);

/* Answers a request. `refusal` is NULL, or says why FTVM_VMM_LOAD did not load; the payload is the devices of
 * FTVM_VMM_SAVE, the bitmaps of FTVM_VMM_DIRTY, else nothing. Returns 0 or a negative errno. */
int ftvm_vmm_answer(ftvm_vmm *vmm, const ftvm_vmm_request *request, const char *refusal, const void *payload,
                    size_t bytes);

/* Gives an output: frames on "net0", text on "console", or your own channels. Returns 0 or a negative errno. */
int ftvm_vmm_output(ftvm_vmm *vmm, const char *channel, const void *payload, size_t bytes);

/* Says that the guest came to its own end, and nothing is wrong; it stands still from now on. */
int ftvm_vmm_ended(ftvm_vmm *vmm, const char *reason);

/* Says that the guest can never run again; it stands still from now on. */
int ftvm_vmm_failed(ftvm_vmm *vmm, const char *reason);

/* Returns the bytes of a region's bitmap: bit n % 64 of the little-endian 64-bit word n / 64 is page n. The bitmaps of
 * all regions, one behind the other, are the answer to FTVM_VMM_DIRTY. */
size_t ftvm_vmm_bitmap_bytes(uint64_t page_count);

/* Gives back the connection. Idempotent. */
void ftvm_vmm_close(ftvm_vmm *vmm);

/* Reads one message of ftvm's, whatever its bytes. Returns whether it is a request. For ftvm_vmm_next and a fuzzer. */
bool ftvm_vmm_parse(const uint8_t *header, size_t header_bytes, const uint8_t *payload, size_t payload_bytes,
                    ftvm_vmm_request *request);

#endif
