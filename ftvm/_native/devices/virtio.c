#include "virtio.h"

#include <string.h>

enum {
    MAGIC = 0x000,
    VERSION = 0x004,
    DEVICE_ID = 0x008,
    VENDOR_ID = 0x00c,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SELECT = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SELECT = 0x024,
    QUEUE_SELECT = 0x030,
    QUEUE_SIZE_MAX = 0x034,
    QUEUE_SIZE = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060,
    INTERRUPT_ACK = 0x064,
    STATUS = 0x070,
    DESCRIPTORS_LOW = 0x080,
    DESCRIPTORS_HIGH = 0x084,
    AVAILABLE_LOW = 0x090,
    AVAILABLE_HIGH = 0x094,
    USED_LOW = 0x0a0,
    USED_HIGH = 0x0a4,
    CONFIG_GENERATION = 0x0fc,
    CONFIG = 0x100,
};
enum { SLOT_MASK = 0xfff };
enum { MAGIC_VALUE = 0x74726976, VERSION_VALUE = 2, VENDOR_VALUE = 0x4d565446 };
enum { STATUS_FEATURES_OK = 8, STATUS_DRIVER_OK = 4, STATUS_NEEDS_RESET = 64, STATUS_WRITABLE = 0xcf };
enum { INTERRUPT_USED = 1, INTERRUPT_CONFIG = 2 };
enum { DESCRIPTOR_NEXT = 1, DESCRIPTOR_WRITE = 2, DESCRIPTOR_INDIRECT = 4, DESCRIPTOR_BYTES = 16 };
enum { AVAILABLE_NO_INTERRUPT = 1, CONFIG_BYTES_MAX = 64 };

static uint64_t with_low(uint64_t whole, uint64_t value)
{
    return (whole & ~UINT64_C(0xffffffff)) | (value & 0xffffffff);
}

static uint64_t with_high(uint64_t whole, uint64_t value)
{
    return (whole & 0xffffffff) | value << 32;
}

static void need_reset(device_virtio *virtio)
{
    virtio->status |= STATUS_NEEDS_RESET;
    virtio->interrupt |= INTERRUPT_CONFIG;
}

/* --- queues --- */

static bool is_live(const device_virtio *virtio, const device_virtq *queue)
{
    return queue->is_ready && (virtio->status & STATUS_DRIVER_OK) != 0 && (virtio->status & STATUS_NEEDS_RESET) == 0;
}

/* Adds the descriptor `number` to the chain. Returns false if that is against the rules. */
static bool add_segment(const device_board *board, const device_virtq *queue, unsigned number, device_chain *chain,
                        uint16_t *flags, uint16_t *next)
{
    uint8_t bytes[DESCRIPTOR_BYTES];
    if (number >= queue->size || chain->count >= queue->size ||
        !device_dma_read(board, queue->descriptors + number * DESCRIPTOR_BYTES, bytes, sizeof bytes))
        return false;
    wire_reader reader = {bytes, sizeof bytes, 0};
    device_segment *segment = &chain->segments[chain->count++];
    segment->address = wire_read_u64(&reader);
    segment->bytes = wire_read_u32(&reader);
    *flags = (uint16_t)wire_read_uint(&reader, 2);
    *next = (uint16_t)wire_read_uint(&reader, 2);
    segment->is_writable = (*flags & DESCRIPTOR_WRITE) != 0;
    if ((*flags & DESCRIPTOR_INDIRECT) != 0 || !device_is_ram(board, segment->address, segment->bytes))
        return false;
    if (!segment->is_writable && chain->writable_bytes != 0)
        return false; /* readable ones come first */
    *(segment->is_writable ? &chain->writable_bytes : &chain->readable_bytes) += segment->bytes;
    return true;
}

static bool walk(const device_board *board, const device_virtq *queue, device_chain *chain)
{
    uint16_t flags = DESCRIPTOR_NEXT;
    uint16_t number = chain->head;
    while ((flags & DESCRIPTOR_NEXT) != 0) {
        if (!add_segment(board, queue, number, chain, &flags, &number))
            return false;
    }
    return true;
}

bool device_virtq_is_behind(const device_board *board, const device_virtio *virtio, unsigned index)
{
    const device_virtq *queue = &virtio->queues[index];
    uint16_t available;
    return is_live(virtio, queue) &&
           (!device_dma_read(board, queue->available + 2, &available, 2) || available != queue->next);
}

device_chain_found device_virtq_peek(const device_board *board, const device_virtio *virtio, unsigned index,
                                   device_chain *chain)
{
    const device_virtq *queue = &virtio->queues[index];
    uint16_t available;
    if (!is_live(virtio, queue))
        return DEVICE_CHAIN_NONE;
    if (!device_dma_read(board, queue->available + 2, &available, 2))
        return DEVICE_CHAIN_BROKEN;
    uint16_t waiting = (uint16_t)(available - queue->next);
    if (waiting == 0)
        return DEVICE_CHAIN_NONE;
    chain->count = 0;
    chain->readable_bytes = 0;
    chain->writable_bytes = 0;
    uint64_t entry = queue->available + 4 + 2 * (uint64_t)(queue->next % queue->size);
    if (waiting > queue->size || !device_dma_read(board, entry, &chain->head, 2) || !walk(board, queue, chain))
        return DEVICE_CHAIN_BROKEN;
    return DEVICE_CHAIN_READY;
}

bool device_virtq_take(device_board *board, device_virtio *virtio, unsigned index, device_chain *chain)
{
    device_chain_found found = device_virtq_peek(board, virtio, index, chain);
    if (found == DEVICE_CHAIN_BROKEN)
        need_reset(virtio);
    return found == DEVICE_CHAIN_READY;
}

void device_virtq_use(device_board *board, device_virtio *virtio, unsigned index, const device_chain *chain,
                     uint32_t written)
{
    device_virtq *queue = &virtio->queues[index];
    uint32_t element[2] = {chain->head, written};
    uint16_t flags = 0;
    uint64_t entry = queue->used + 4 + 8 * (uint64_t)(queue->next % queue->size);
    queue->next++;
    bool is_whole = device_dma_write(board, entry, element, sizeof element) &&
                    device_dma_write(board, queue->used + 2, &queue->next, 2) &&
                    device_dma_read(board, queue->available, &flags, 2);
    if (!is_whole)
        need_reset(virtio);
    else if ((flags & AVAILABLE_NO_INTERRUPT) == 0)
        virtio->interrupt |= INTERRUPT_USED;
}

size_t device_chain_read(const device_board *board, const device_chain *chain, size_t skip, uint8_t *into,
                         size_t bytes)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->count && done < bytes; i++) {
        const device_segment *segment = &chain->segments[i];
        if (segment->is_writable)
            break;
        if (skip >= segment->bytes) {
            skip -= segment->bytes;
            continue;
        }
        size_t part = segment->bytes - skip < bytes - done ? segment->bytes - skip : bytes - done;
        device_dma_read(board, segment->address + skip, into + done, part);
        done += part;
        skip = 0;
    }
    return done;
}

size_t device_chain_write(device_board *board, const device_chain *chain, size_t skip, const uint8_t *from,
                          size_t bytes)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->count && done < bytes; i++) {
        const device_segment *segment = &chain->segments[i];
        if (!segment->is_writable)
            continue;
        if (skip >= segment->bytes) {
            skip -= segment->bytes;
            continue;
        }
        size_t part = segment->bytes - skip < bytes - done ? segment->bytes - skip : bytes - done;
        device_dma_write(board, segment->address + skip, from + done, part);
        done += part;
        skip = 0;
    }
    return done;
}

/* --- registers --- */

static device_virtq *selected(device_virtio *virtio)
{
    return virtio->queue_select < virtio->type->queue_count ? &virtio->queues[virtio->queue_select] : NULL;
}

static bool read_config(const device_board *board, const device_virtio *virtio, uint64_t offset, unsigned size,
                        uint64_t *value)
{
    uint8_t bytes[CONFIG_BYTES_MAX] = {0};
    size_t length = virtio->type->config(board, bytes, sizeof bytes);
    *value = 0;
    if (offset < length && size <= sizeof bytes - offset)
        memcpy(value, bytes + offset, size);
    return true;
}

static bool virtio_read(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    device_virtio *virtio = device;
    const device_virtq *queue = selected(virtio);
    if (offset >= CONFIG)
        return read_config(board, virtio, offset - CONFIG, size, value);
    if (size != 4)
        return false;
    switch (offset) {
    case MAGIC: *value = MAGIC_VALUE; break;
    case VERSION: *value = VERSION_VALUE; break;
    case DEVICE_ID: *value = virtio->type->device_id; break;
    case VENDOR_ID: *value = VENDOR_VALUE; break;
    case DEVICE_FEATURES:
        *value = virtio->device_features_select > 1
                     ? 0
                     : virtio->type->features >> (32 * virtio->device_features_select) & 0xffffffff;
        break;
    case QUEUE_SIZE_MAX: *value = queue != NULL ? DEVICE_VIRTQ_SIZE_MAX : 0; break;
    case QUEUE_READY: *value = queue != NULL && queue->is_ready; break;
    case INTERRUPT_STATUS: *value = virtio->interrupt; break;
    case STATUS: *value = virtio->status; break;
    default: *value = 0; break; /* CONFIG_GENERATION too: the configuration never changes */
    }
    return true;
}

static void reset(device_virtio *virtio)
{
    *virtio = (device_virtio){.type = virtio->type};
}

static void write_status(device_virtio *virtio, uint32_t value)
{
    if (value == 0) {
        reset(virtio);
        return;
    }
    bool is_acceptable = (virtio->driver_features & ~virtio->type->features) == 0 &&
                         (virtio->driver_features & DEVICE_VIRTIO_VERSION_1) != 0;
    uint32_t accepted = is_acceptable ? value : value & ~(uint32_t)STATUS_FEATURES_OK;
    uint32_t kept = virtio->status & STATUS_NEEDS_RESET;
    virtio->status = kept | (accepted & STATUS_WRITABLE & ~(uint32_t)STATUS_NEEDS_RESET);
}

static void write_driver_features(device_virtio *virtio, uint64_t value)
{
    if (virtio->driver_features_select == 0)
        virtio->driver_features = with_low(virtio->driver_features, value);
    else if (virtio->driver_features_select == 1)
        virtio->driver_features = with_high(virtio->driver_features, value);
}

static bool is_size(uint64_t value)
{
    return value != 0 && value <= DEVICE_VIRTQ_SIZE_MAX && (value & (value - 1)) == 0;
}

static void write_ready(device_virtq *queue, uint64_t value)
{
    queue->is_ready = (value & 1) != 0 && is_size(queue->size);
    if (!queue->is_ready)
        queue->next = 0;
}

/* A ready queue keeps its size and places, as a driver may not change them: else one store could leave a size that
 * nothing can be divided by, and a state that no host loads. */
static void write_queue(device_virtq *queue, uint64_t offset, uint64_t value)
{
    if (queue->is_ready && offset != QUEUE_READY)
        return;
    switch (offset) {
    case QUEUE_SIZE: queue->size = is_size(value) ? (uint16_t)value : 0; break;
    case QUEUE_READY: write_ready(queue, value); break;
    case DESCRIPTORS_LOW: queue->descriptors = with_low(queue->descriptors, value); break;
    case DESCRIPTORS_HIGH: queue->descriptors = with_high(queue->descriptors, value); break;
    case AVAILABLE_LOW: queue->available = with_low(queue->available, value); break;
    case AVAILABLE_HIGH: queue->available = with_high(queue->available, value); break;
    case USED_LOW: queue->used = with_low(queue->used, value); break;
    case USED_HIGH: queue->used = with_high(queue->used, value); break;
    default: break;
    }
}

static bool virtio_write(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    device_virtio *virtio = device;
    device_virtq *queue = selected(virtio);
    if (offset >= CONFIG)
        return true; /* no device here has a writable configuration */
    if (size != 4)
        return false;
    switch (offset) {
    case DEVICE_FEATURES_SELECT: virtio->device_features_select = (uint32_t)value; break;
    case DRIVER_FEATURES_SELECT: virtio->driver_features_select = (uint32_t)value; break;
    case DRIVER_FEATURES: write_driver_features(virtio, value); break;
    case QUEUE_SELECT: virtio->queue_select = (uint32_t)value; break;
    case INTERRUPT_ACK: virtio->interrupt &= ~(uint32_t)value; break;
    case STATUS: write_status(virtio, (uint32_t)value); break;
    case QUEUE_NOTIFY:
        if (value < virtio->type->queue_count)
            virtio->type->notify(board, virtio, (unsigned)value);
        break;
    default:
        if (queue != NULL)
            write_queue(queue, offset, value);
        break;
    }
    return true;
}

static bool virtio_line(const void *device)
{
    const device_virtio *virtio = device;
    return virtio->interrupt != 0;
}

/* --- state --- */

static void save_queue(const device_virtq *queue, wire_writer *writer)
{
    wire_write_u8(writer, queue->is_ready);
    wire_write_uint(writer, 2, queue->size);
    wire_write_uint(writer, 2, queue->next);
    wire_write_u64(writer, queue->descriptors);
    wire_write_u64(writer, queue->available);
    wire_write_u64(writer, queue->used);
}

static bool load_queue(device_virtq *queue, wire_reader *reader)
{
    bool is_bad = false;
    queue->is_ready = wire_read_flag(reader, &is_bad);
    queue->size = (uint16_t)wire_read_uint(reader, 2);
    queue->next = (uint16_t)wire_read_uint(reader, 2);
    queue->descriptors = wire_read_u64(reader);
    queue->available = wire_read_u64(reader);
    queue->used = wire_read_u64(reader);
    return !is_bad && (is_size(queue->size) || (queue->size == 0 && !queue->is_ready));
}

static void virtio_save(const void *device, wire_writer *writer)
{
    const device_virtio *virtio = device;
    wire_write_u32(writer, virtio->device_features_select);
    wire_write_u32(writer, virtio->driver_features_select);
    wire_write_u64(writer, virtio->driver_features);
    wire_write_u32(writer, virtio->queue_select);
    wire_write_u32(writer, virtio->status);
    wire_write_u32(writer, virtio->interrupt);
    for (unsigned i = 0; i < DEVICE_VIRTIO_QUEUES; i++)
        save_queue(&virtio->queues[i], writer);
}

static const char *virtio_load(void *device, wire_reader *reader)
{
    device_virtio *virtio = device;
    bool is_good = true;
    virtio->device_features_select = wire_read_u32(reader);
    virtio->driver_features_select = wire_read_u32(reader);
    virtio->driver_features = wire_read_u64(reader);
    virtio->queue_select = wire_read_u32(reader);
    virtio->status = wire_read_u32(reader);
    virtio->interrupt = wire_read_u32(reader);
    for (unsigned i = 0; i < DEVICE_VIRTIO_QUEUES; i++)
        is_good &= load_queue(&virtio->queues[i], reader);
    if (!is_good)
        return "virtio: a queue has an impossible size";
    if ((virtio->status & ~(uint32_t)STATUS_WRITABLE) != 0 || virtio->interrupt > (INTERRUPT_USED | INTERRUPT_CONFIG))
        return "virtio: a register has bits that do not exist";
    return NULL;
}

const device_ops device_virtio_ops = {virtio_read, virtio_write, virtio_line, virtio_save, virtio_load};

/* --- an empty slot --- */

static bool empty_read(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    (void)board, (void)device;
    uint64_t reg = offset & SLOT_MASK;
    *value = reg == MAGIC ? MAGIC_VALUE : reg == VERSION ? VERSION_VALUE : 0; /* device id 0: nothing here */
    return size == 4 || reg >= CONFIG;
}

static bool empty_write(device_board *board, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)board, (void)device, (void)offset, (void)size, (void)value;
    return true;
}

const device_ops device_virtio_empty_ops = {empty_read, empty_write, NULL, NULL, NULL};
