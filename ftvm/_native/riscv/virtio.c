#include "virtio.h"

#include <string.h>

#include "bus.h"

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

static void need_reset(riscv_virtio *virtio)
{
    virtio->status |= STATUS_NEEDS_RESET;
    virtio->interrupt |= INTERRUPT_CONFIG;
}

/* --- queues --- */

static bool is_live(const riscv_virtio *virtio, const riscv_virtq *queue)
{
    return queue->is_ready && (virtio->status & STATUS_DRIVER_OK) != 0 && (virtio->status & STATUS_NEEDS_RESET) == 0;
}

/* Adds the descriptor `number` to the chain. Returns false if that is against the rules. */
static bool add_segment(const ftvm_riscv *machine, const riscv_virtq *queue, unsigned number, riscv_chain *chain,
                        uint16_t *flags, uint16_t *next)
{
    uint8_t bytes[DESCRIPTOR_BYTES];
    if (number >= queue->size || chain->count >= queue->size ||
        !riscv_dma_read(machine, queue->descriptors + number * DESCRIPTOR_BYTES, bytes, sizeof bytes))
        return false;
    riscv_reader reader = {bytes, sizeof bytes, 0};
    riscv_segment *segment = &chain->segments[chain->count++];
    segment->address = riscv_read_u64(&reader);
    segment->bytes = riscv_read_u32(&reader);
    *flags = (uint16_t)riscv_read_uint(&reader, 2);
    *next = (uint16_t)riscv_read_uint(&reader, 2);
    segment->is_writable = (*flags & DESCRIPTOR_WRITE) != 0;
    if ((*flags & DESCRIPTOR_INDIRECT) != 0 || !riscv_bus_is_ram(machine, segment->address, segment->bytes))
        return false;
    if (!segment->is_writable && chain->writable_bytes != 0)
        return false; /* readable ones come first */
    *(segment->is_writable ? &chain->writable_bytes : &chain->readable_bytes) += segment->bytes;
    return true;
}

static bool walk(const ftvm_riscv *machine, const riscv_virtq *queue, riscv_chain *chain)
{
    uint16_t flags = DESCRIPTOR_NEXT;
    uint16_t number = chain->head;
    while ((flags & DESCRIPTOR_NEXT) != 0) {
        if (!add_segment(machine, queue, number, chain, &flags, &number))
            return false;
    }
    return true;
}

bool riscv_virtq_is_behind(const ftvm_riscv *machine, const riscv_virtio *virtio, unsigned index)
{
    const riscv_virtq *queue = &virtio->queues[index];
    uint16_t available;
    return is_live(virtio, queue) &&
           (!riscv_dma_read(machine, queue->available + 2, &available, 2) || available != queue->next);
}

riscv_chain_found riscv_virtq_peek(const ftvm_riscv *machine, const riscv_virtio *virtio, unsigned index,
                                   riscv_chain *chain)
{
    const riscv_virtq *queue = &virtio->queues[index];
    uint16_t available;
    if (!is_live(virtio, queue))
        return RISCV_CHAIN_NONE;
    if (!riscv_dma_read(machine, queue->available + 2, &available, 2))
        return RISCV_CHAIN_BROKEN;
    uint16_t waiting = (uint16_t)(available - queue->next);
    if (waiting == 0)
        return RISCV_CHAIN_NONE;
    chain->count = 0;
    chain->readable_bytes = 0;
    chain->writable_bytes = 0;
    uint64_t entry = queue->available + 4 + 2 * (uint64_t)(queue->next % queue->size);
    if (waiting > queue->size || !riscv_dma_read(machine, entry, &chain->head, 2) || !walk(machine, queue, chain))
        return RISCV_CHAIN_BROKEN;
    return RISCV_CHAIN_READY;
}

bool riscv_virtq_take(ftvm_riscv *machine, riscv_virtio *virtio, unsigned index, riscv_chain *chain)
{
    riscv_chain_found found = riscv_virtq_peek(machine, virtio, index, chain);
    if (found == RISCV_CHAIN_BROKEN)
        need_reset(virtio);
    return found == RISCV_CHAIN_READY;
}

void riscv_virtq_use(ftvm_riscv *machine, riscv_virtio *virtio, unsigned index, const riscv_chain *chain,
                     uint32_t written)
{
    riscv_virtq *queue = &virtio->queues[index];
    uint32_t element[2] = {chain->head, written};
    uint16_t flags = 0;
    uint64_t entry = queue->used + 4 + 8 * (uint64_t)(queue->next % queue->size);
    queue->next++;
    bool is_whole = riscv_dma_write(machine, entry, element, sizeof element) &&
                    riscv_dma_write(machine, queue->used + 2, &queue->next, 2) &&
                    riscv_dma_read(machine, queue->available, &flags, 2);
    if (!is_whole)
        need_reset(virtio);
    else if ((flags & AVAILABLE_NO_INTERRUPT) == 0)
        virtio->interrupt |= INTERRUPT_USED;
}

size_t riscv_chain_read(const ftvm_riscv *machine, const riscv_chain *chain, size_t skip, uint8_t *into, size_t bytes)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->count && done < bytes; i++) {
        const riscv_segment *segment = &chain->segments[i];
        if (segment->is_writable)
            break;
        if (skip >= segment->bytes) {
            skip -= segment->bytes;
            continue;
        }
        size_t part = segment->bytes - skip < bytes - done ? segment->bytes - skip : bytes - done;
        riscv_dma_read(machine, segment->address + skip, into + done, part);
        done += part;
        skip = 0;
    }
    return done;
}

size_t riscv_chain_write(ftvm_riscv *machine, const riscv_chain *chain, size_t skip, const uint8_t *from, size_t bytes)
{
    size_t done = 0;
    for (unsigned i = 0; i < chain->count && done < bytes; i++) {
        const riscv_segment *segment = &chain->segments[i];
        if (!segment->is_writable)
            continue;
        if (skip >= segment->bytes) {
            skip -= segment->bytes;
            continue;
        }
        size_t part = segment->bytes - skip < bytes - done ? segment->bytes - skip : bytes - done;
        riscv_dma_write(machine, segment->address + skip, from + done, part);
        done += part;
        skip = 0;
    }
    return done;
}

/* --- registers --- */

static riscv_virtq *selected(riscv_virtio *virtio)
{
    return virtio->queue_select < virtio->type->queue_count ? &virtio->queues[virtio->queue_select] : NULL;
}

static bool read_config(const ftvm_riscv *machine, const riscv_virtio *virtio, uint64_t offset, unsigned size,
                        uint64_t *value)
{
    uint8_t bytes[CONFIG_BYTES_MAX] = {0};
    size_t length = virtio->type->config(machine, bytes, sizeof bytes);
    *value = 0;
    if (offset < length && size <= sizeof bytes - offset)
        memcpy(value, bytes + offset, size);
    return true;
}

static bool virtio_read(ftvm_riscv *machine, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    riscv_virtio *virtio = device;
    const riscv_virtq *queue = selected(virtio);
    if (offset >= CONFIG)
        return read_config(machine, virtio, offset - CONFIG, size, value);
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
    case QUEUE_SIZE_MAX: *value = queue != NULL ? RISCV_VIRTQ_SIZE_MAX : 0; break;
    case QUEUE_READY: *value = queue != NULL && queue->is_ready; break;
    case INTERRUPT_STATUS: *value = virtio->interrupt; break;
    case STATUS: *value = virtio->status; break;
    default: *value = 0; break; /* CONFIG_GENERATION too: the configuration never changes */
    }
    return true;
}

static void reset(riscv_virtio *virtio)
{
    *virtio = (riscv_virtio){.type = virtio->type};
}

static void write_status(riscv_virtio *virtio, uint32_t value)
{
    if (value == 0) {
        reset(virtio);
        return;
    }
    bool is_acceptable = (virtio->driver_features & ~virtio->type->features) == 0 &&
                         (virtio->driver_features & RISCV_VIRTIO_VERSION_1) != 0;
    uint32_t accepted = is_acceptable ? value : value & ~(uint32_t)STATUS_FEATURES_OK;
    uint32_t kept = virtio->status & STATUS_NEEDS_RESET;
    virtio->status = kept | (accepted & STATUS_WRITABLE & ~(uint32_t)STATUS_NEEDS_RESET);
}

static void write_driver_features(riscv_virtio *virtio, uint64_t value)
{
    if (virtio->driver_features_select == 0)
        virtio->driver_features = with_low(virtio->driver_features, value);
    else if (virtio->driver_features_select == 1)
        virtio->driver_features = with_high(virtio->driver_features, value);
}

static bool is_size(uint64_t value)
{
    return value != 0 && value <= RISCV_VIRTQ_SIZE_MAX && (value & (value - 1)) == 0;
}

static void write_ready(riscv_virtq *queue, uint64_t value)
{
    queue->is_ready = (value & 1) != 0 && is_size(queue->size);
    if (!queue->is_ready)
        queue->next = 0;
}

/* A ready queue keeps its size and places, as a driver may not change them: else one store could leave a size that
 * nothing can be divided by, and a state that no host loads. */
static void write_queue(riscv_virtq *queue, uint64_t offset, uint64_t value)
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

static bool virtio_write(ftvm_riscv *machine, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    riscv_virtio *virtio = device;
    riscv_virtq *queue = selected(virtio);
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
            virtio->type->notify(machine, virtio, (unsigned)value);
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
    const riscv_virtio *virtio = device;
    return virtio->interrupt != 0;
}

/* --- state --- */

static void save_queue(const riscv_virtq *queue, riscv_writer *writer)
{
    riscv_write_u8(writer, queue->is_ready);
    riscv_write_uint(writer, 2, queue->size);
    riscv_write_uint(writer, 2, queue->next);
    riscv_write_u64(writer, queue->descriptors);
    riscv_write_u64(writer, queue->available);
    riscv_write_u64(writer, queue->used);
}

static bool load_queue(riscv_virtq *queue, riscv_reader *reader)
{
    bool is_bad = false;
    queue->is_ready = riscv_read_flag(reader, &is_bad);
    queue->size = (uint16_t)riscv_read_uint(reader, 2);
    queue->next = (uint16_t)riscv_read_uint(reader, 2);
    queue->descriptors = riscv_read_u64(reader);
    queue->available = riscv_read_u64(reader);
    queue->used = riscv_read_u64(reader);
    return !is_bad && (is_size(queue->size) || (queue->size == 0 && !queue->is_ready));
}

static void virtio_save(const void *device, riscv_writer *writer)
{
    const riscv_virtio *virtio = device;
    riscv_write_u32(writer, virtio->device_features_select);
    riscv_write_u32(writer, virtio->driver_features_select);
    riscv_write_u64(writer, virtio->driver_features);
    riscv_write_u32(writer, virtio->queue_select);
    riscv_write_u32(writer, virtio->status);
    riscv_write_u32(writer, virtio->interrupt);
    for (unsigned i = 0; i < RISCV_VIRTIO_QUEUES; i++)
        save_queue(&virtio->queues[i], writer);
}

static const char *virtio_load(void *device, riscv_reader *reader)
{
    riscv_virtio *virtio = device;
    bool is_good = true;
    virtio->device_features_select = riscv_read_u32(reader);
    virtio->driver_features_select = riscv_read_u32(reader);
    virtio->driver_features = riscv_read_u64(reader);
    virtio->queue_select = riscv_read_u32(reader);
    virtio->status = riscv_read_u32(reader);
    virtio->interrupt = riscv_read_u32(reader);
    for (unsigned i = 0; i < RISCV_VIRTIO_QUEUES; i++)
        is_good &= load_queue(&virtio->queues[i], reader);
    if (!is_good)
        return "virtio: a queue has an impossible size";
    if ((virtio->status & ~(uint32_t)STATUS_WRITABLE) != 0 || virtio->interrupt > (INTERRUPT_USED | INTERRUPT_CONFIG))
        return "virtio: a register has bits that do not exist";
    return NULL;
}

const riscv_device_ops riscv_virtio_ops = {virtio_read, virtio_write, virtio_line, virtio_save, virtio_load};

/* --- an empty slot --- */

static bool empty_read(ftvm_riscv *machine, void *device, uint64_t offset, unsigned size, uint64_t *value)
{
    (void)machine, (void)device;
    uint64_t reg = offset & SLOT_MASK;
    *value = reg == MAGIC ? MAGIC_VALUE : reg == VERSION ? VERSION_VALUE : 0; /* device id 0: nothing here */
    return size == 4 || reg >= CONFIG;
}

static bool empty_write(ftvm_riscv *machine, void *device, uint64_t offset, unsigned size, uint64_t value)
{
    (void)machine, (void)device, (void)offset, (void)size, (void)value;
    return true;
}

const riscv_device_ops riscv_virtio_empty_ops = {empty_read, empty_write, NULL, NULL, NULL};
