#include "virtio_block.h"

#include <string.h>

enum { REQUESTS = 0, SECTOR_BYTES = 512, HEADER_BYTES = 16, ID_BYTES = 20 };
enum { TYPE_IN = 0, TYPE_OUT = 1, TYPE_FLUSH = 4, TYPE_GET_ID = 8 };
enum { STATUS_OK = 0, STATUS_IO_ERROR = 1, STATUS_UNSUPPORTED = 2 };
#define FEATURE_SIZE_MAX (UINT64_C(1) << 1)
#define FEATURE_SEG_MAX (UINT64_C(1) << 2)
#define FEATURE_FLUSH (UINT64_C(1) << 9)

/* What a driver is told, so that it never meets the limit of a request: segments of at least a page, as drivers want,
 * and as many as fit into a queue with room for another request. */
enum { SEGMENT_BYTES_MAX = 8192, SEGMENT_COUNT_MAX = 126 };
_Static_assert(SEGMENT_BYTES_MAX * SEGMENT_COUNT_MAX <= DEVICE_BLOCK_REQUEST_BYTES,
               "a driver may send what it is told");

typedef struct {
    uint32_t type;
    uint64_t offset; /* into the disk, in bytes */
    size_t bytes;    /* of data: the chain without header and status */
    size_t moved;    /* of them, between memory and disk */
    uint32_t written;
} request;

static bool is_possible(const device_board *board, const request *wish)
{
    uint64_t disk_bytes = board->disk_bytes;
    return wish->bytes <= DEVICE_BLOCK_REQUEST_BYTES && wish->bytes % SECTOR_BYTES == 0 && wish->offset <= disk_bytes &&
           wish->bytes <= disk_bytes - wish->offset;
}

static uint8_t read_sectors(device_board *board, const device_chain *chain, request *wish)
{
    if (!is_possible(board, wish))
        return STATUS_IO_ERROR;
    wish->moved = device_chain_write(board, chain, 0, board->disk + wish->offset, wish->bytes);
    wish->written = (uint32_t)wish->bytes;
    return STATUS_OK;
}

static uint8_t write_sectors(device_board *board, const device_chain *chain, request *wish)
{
    if (!is_possible(board, wish))
        return STATUS_IO_ERROR;
    wish->moved = device_chain_read(board, chain, HEADER_BYTES, board->disk + wish->offset, wish->bytes);
    for (uint64_t at = wish->offset; at < wish->offset + wish->bytes; at += SECTOR_BYTES)
        board->disk_flags[at >> DEVICE_PAGE_SHIFT] = 1;
    return STATUS_OK;
}

/* The disk is memory, so nothing is ever behind it; that it is durable is the business of whoever copies it. */
static uint8_t flush(device_board *board)
{
    if (board->disk_flush != NULL)
        *board->disk_flush = 1;
    return STATUS_OK;
}

static uint8_t get_id(device_board *board, const device_chain *chain, request *wish)
{
    static const uint8_t id[ID_BYTES] = "ftvm disk";
    size_t bytes = wish->bytes < sizeof id ? wish->bytes : sizeof id;
    wish->written = (uint32_t)device_chain_write(board, chain, 0, id, bytes);
    return STATUS_OK;
}

static uint8_t serve(device_board *board, const device_chain *chain, request *wish)
{
    uint8_t bytes[HEADER_BYTES];
    if (device_chain_read(board, chain, 0, bytes, sizeof bytes) != sizeof bytes)
        return STATUS_IO_ERROR;
    wire_reader reader = {bytes, sizeof bytes, 0};
    wish->type = wire_read_u32(&reader);
    (void)wire_read_u32(&reader);
    uint64_t sector = wire_read_u64(&reader);
    wish->offset = sector > UINT64_MAX / SECTOR_BYTES ? UINT64_MAX : sector * SECTOR_BYTES;
    wish->bytes = wish->type == TYPE_OUT ? chain->readable_bytes - HEADER_BYTES : chain->writable_bytes - 1;
    switch (wish->type) {
    case TYPE_IN: return read_sectors(board, chain, wish);
    case TYPE_OUT: return write_sectors(board, chain, wish);
    case TYPE_FLUSH: return flush(board);
    case TYPE_GET_ID: return get_id(board, chain, wish);
    default: return STATUS_UNSUPPORTED;
    }
}

/* Serves the request in a chain and gives the chain back. Returns how many bytes that moved. */
static size_t complete(device_board *board, device_virtio *virtio, const device_chain *chain)
{
    request wish = {.type = 0};
    uint8_t status = chain->writable_bytes != 0 ? serve(board, chain, &wish) : STATUS_IO_ERROR;
    if (chain->writable_bytes != 0)
        device_chain_write(board, chain, chain->writable_bytes - 1, &status, 1);
    device_virtq_use(board, virtio, REQUESTS, chain, wish.written + (chain->writable_bytes != 0));
    return wish.moved;
}

bool device_virtio_block_is_behind(const device_board *board, const device_virtio *virtio)
{
    return board->disk_bytes != 0 && device_virtq_is_behind(board, virtio, REQUESTS);
}

bool device_virtio_block_serve(device_board *board, device_virtio *virtio)
{
    device_chain chain;
    if (!device_virtio_block_is_behind(board, virtio))
        return false;
    uint64_t moved = 0;
    for (unsigned taken = 0; taken < DEVICE_VIRTQ_SIZE_MAX && moved < DEVICE_BLOCK_BUDGET_BYTES; taken++) {
        if (!device_virtq_take(board, virtio, REQUESTS, &chain))
            break;
        moved += complete(board, virtio, &chain);
    }
    return true;
}

static void notify(device_board *board, device_virtio *virtio, unsigned index)
{
    (void)index; /* there is one queue */
    device_virtio_block_serve(board, virtio);
}

static size_t config(const device_board *board, uint8_t *bytes, size_t capacity)
{
    wire_writer writer = {bytes, capacity, 0};
    wire_write_u64(&writer, board->disk_bytes / SECTOR_BYTES);
    wire_write_u32(&writer, SEGMENT_BYTES_MAX);
    wire_write_u32(&writer, SEGMENT_COUNT_MAX);
    return writer.length;
}

const device_virtio_type device_virtio_block = {
    .device_id = 2,
    .queue_count = 1,
    .features = DEVICE_VIRTIO_VERSION_1 | FEATURE_SIZE_MAX | FEATURE_SEG_MAX | FEATURE_FLUSH,
    .notify = notify,
    .config = config,
};
