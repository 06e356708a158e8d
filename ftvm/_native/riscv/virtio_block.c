#include "virtio_block.h"

#include <string.h>

#include "bus.h"

enum { REQUESTS = 0, SECTOR_BYTES = 512, HEADER_BYTES = 16, ID_BYTES = 20 };
enum { TYPE_IN = 0, TYPE_OUT = 1, TYPE_FLUSH = 4, TYPE_GET_ID = 8 };
enum { STATUS_OK = 0, STATUS_IO_ERROR = 1, STATUS_UNSUPPORTED = 2 };
#define FEATURE_SIZE_MAX (UINT64_C(1) << 1)
#define FEATURE_SEG_MAX (UINT64_C(1) << 2)
#define FEATURE_FLUSH (UINT64_C(1) << 9)

/* What a driver is told, so that it never meets the limit of a request: segments of at least a page, as drivers want,
 * and as many as fit into a queue with room for another request. */
enum { SEGMENT_BYTES_MAX = 8192, SEGMENT_COUNT_MAX = 126 };
_Static_assert(SEGMENT_BYTES_MAX * SEGMENT_COUNT_MAX <= RISCV_BLOCK_REQUEST_BYTES, "a driver may send what it is told");

typedef struct {
    uint32_t type;
    uint64_t offset; /* into the disk, in bytes */
    size_t bytes;    /* of data: the chain without header and status */
    size_t moved;    /* of them, between memory and disk */
    uint32_t written;
} request;

static bool is_possible(const ftvm_riscv *machine, const request *wish)
{
    uint64_t disk_bytes = machine->config.disk_bytes;
    return wish->bytes <= RISCV_BLOCK_REQUEST_BYTES && wish->bytes % SECTOR_BYTES == 0 && wish->offset <= disk_bytes &&
           wish->bytes <= disk_bytes - wish->offset;
}

static uint8_t read_sectors(ftvm_riscv *machine, const riscv_chain *chain, request *wish)
{
    if (!is_possible(machine, wish))
        return STATUS_IO_ERROR;
    wish->moved = riscv_chain_write(machine, chain, 0, machine->config.disk + wish->offset, wish->bytes);
    wish->written = (uint32_t)wish->bytes;
    return STATUS_OK;
}

static uint8_t write_sectors(ftvm_riscv *machine, const riscv_chain *chain, request *wish)
{
    if (!is_possible(machine, wish))
        return STATUS_IO_ERROR;
    wish->moved = riscv_chain_read(machine, chain, HEADER_BYTES, machine->config.disk + wish->offset, wish->bytes);
    for (uint64_t at = wish->offset; at < wish->offset + wish->bytes; at += SECTOR_BYTES)
        machine->config.disk_flags[at >> PAGE_SHIFT] = RISCV_FLAG_DIRTY;
    return STATUS_OK;
}

static uint8_t get_id(ftvm_riscv *machine, const riscv_chain *chain, request *wish)
{
    static const uint8_t id[ID_BYTES] = "ftvm disk";
    size_t bytes = wish->bytes < sizeof id ? wish->bytes : sizeof id;
    wish->written = (uint32_t)riscv_chain_write(machine, chain, 0, id, bytes);
    return STATUS_OK;
}

static uint8_t serve(ftvm_riscv *machine, const riscv_chain *chain, request *wish)
{
    uint8_t bytes[HEADER_BYTES];
    if (riscv_chain_read(machine, chain, 0, bytes, sizeof bytes) != sizeof bytes)
        return STATUS_IO_ERROR;
    riscv_reader reader = {bytes, sizeof bytes, 0};
    wish->type = riscv_read_u32(&reader);
    (void)riscv_read_u32(&reader);
    uint64_t sector = riscv_read_u64(&reader);
    wish->offset = sector > UINT64_MAX / SECTOR_BYTES ? UINT64_MAX : sector * SECTOR_BYTES;
    wish->bytes = wish->type == TYPE_OUT ? chain->readable_bytes - HEADER_BYTES : chain->writable_bytes - 1;
    switch (wish->type) {
    case TYPE_IN: return read_sectors(machine, chain, wish);
    case TYPE_OUT: return write_sectors(machine, chain, wish);
    case TYPE_FLUSH: return STATUS_OK; /* the disk is memory: nothing is ever behind */
    case TYPE_GET_ID: return get_id(machine, chain, wish);
    default: return STATUS_UNSUPPORTED;
    }
}

/* Serves the request in a chain and gives the chain back. Returns how many bytes that moved. */
static size_t complete(ftvm_riscv *machine, riscv_virtio *virtio, const riscv_chain *chain)
{
    request wish = {.type = 0};
    uint8_t status = chain->writable_bytes != 0 ? serve(machine, chain, &wish) : STATUS_IO_ERROR;
    if (chain->writable_bytes != 0)
        riscv_chain_write(machine, chain, chain->writable_bytes - 1, &status, 1);
    riscv_virtq_use(machine, virtio, REQUESTS, chain, wish.written + (chain->writable_bytes != 0));
    return wish.moved;
}

bool riscv_virtio_block_is_behind(const ftvm_riscv *machine)
{
    bool has_block = (machine->config.devices & FTVM_RISCV_BLOCK) != 0;
    return has_block && riscv_virtq_is_behind(machine, &machine->core.block, REQUESTS);
}

bool riscv_virtio_block_serve(ftvm_riscv *machine)
{
    riscv_virtio *virtio = &machine->core.block;
    riscv_chain chain;
    if (!riscv_virtio_block_is_behind(machine))
        return false;
    uint64_t moved = 0;
    for (unsigned taken = 0; taken < RISCV_VIRTQ_SIZE_MAX && moved < RISCV_BLOCK_BUDGET_BYTES; taken++) {
        if (!riscv_virtq_take(machine, virtio, REQUESTS, &chain))
            break;
        moved += complete(machine, virtio, &chain);
    }
    return true;
}

static void notify(ftvm_riscv *machine, riscv_virtio *virtio, unsigned index)
{
    (void)virtio, (void)index; /* there is one queue */
    riscv_virtio_block_serve(machine);
}

static size_t config(const ftvm_riscv *machine, uint8_t *bytes, size_t capacity)
{
    riscv_writer writer = {bytes, capacity, 0};
    riscv_write_u64(&writer, machine->config.disk_bytes / SECTOR_BYTES);
    riscv_write_u32(&writer, SEGMENT_BYTES_MAX);
    riscv_write_u32(&writer, SEGMENT_COUNT_MAX);
    return writer.length;
}

const riscv_virtio_type riscv_virtio_block = {
    .device_id = 2,
    .queue_count = 1,
    .features = RISCV_VIRTIO_VERSION_1 | FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_FLUSH,
    .notify = notify,
    .config = config,
};
