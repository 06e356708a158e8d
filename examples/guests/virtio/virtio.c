#include "virtio.h"

#include "../board/board.h"
#include "../board/cpu.h"

/* Registers, section 4.2.2. */
#define REG_MAGIC 0x000u /* "virt" */
#define REG_VERSION 0x004u
#define REG_DEVICE_ID 0x008u /* 0: an empty slot */
#define REG_DEVICE_FEATURES 0x010u
#define REG_DEVICE_FEATURES_SELECT 0x014u
#define REG_DRIVER_FEATURES 0x020u
#define REG_DRIVER_FEATURES_SELECT 0x024u
#define REG_QUEUE_SELECT 0x030u
#define REG_QUEUE_SIZE_MAX 0x034u
#define REG_QUEUE_SIZE 0x038u
#define REG_QUEUE_READY 0x044u
#define REG_QUEUE_NOTIFY 0x050u
#define REG_INTERRUPT_STATUS 0x060u
#define REG_INTERRUPT_ACKNOWLEDGE 0x064u
#define REG_STATUS 0x070u
#define REG_QUEUE_DESCRIPTORS 0x080u
#define REG_QUEUE_AVAILABLE 0x090u
#define REG_QUEUE_USED 0x0a0u
#define REG_CONFIG_GENERATION 0x0fcu
#define REG_CONFIG 0x100u

#define MAGIC 0x74726976u
#define VERSION_STANDARD 2u

/* Status bits, section 2.1: each is added to those before. */
#define STATUS_ACKNOWLEDGE 1u
#define STATUS_DRIVER 2u
#define STATUS_DRIVER_OK 4u
#define STATUS_FEATURES_OK 8u

static uint32_t get(const struct virtio_device *device, uint32_t reg) { return mmio_read32(device->base + reg); }

static void set(const struct virtio_device *device, uint32_t reg, uint32_t value)
{
    mmio_write32(device->base + reg, value);
}

static void set_address(const struct virtio_device *device, uint32_t reg, const volatile void *address)
{
    set(device, reg, (uint32_t)(uintptr_t)address);
    set(device, reg + 4, (uint32_t)((uintptr_t)address >> 32));
}

static uint64_t offered_features(const struct virtio_device *device)
{
    set(device, REG_DEVICE_FEATURES_SELECT, 1);
    const uint64_t high = get(device, REG_DEVICE_FEATURES);
    set(device, REG_DEVICE_FEATURES_SELECT, 0);
    return high << 32 | get(device, REG_DEVICE_FEATURES);
}

/* The steps and their order: section 3.1.1. */
static bool agree(struct virtio_device *device, uint64_t features)
{
    set(device, REG_STATUS, 0); /* reset */
    set(device, REG_STATUS, STATUS_ACKNOWLEDGE);
    set(device, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);

    device->features = offered_features(device) & (features | VIRTIO_F_VERSION_1);
    if ((device->features & VIRTIO_F_VERSION_1) == 0)
        return false;
    set(device, REG_DRIVER_FEATURES_SELECT, 1);
    set(device, REG_DRIVER_FEATURES, (uint32_t)(device->features >> 32));
    set(device, REG_DRIVER_FEATURES_SELECT, 0);
    set(device, REG_DRIVER_FEATURES, (uint32_t)device->features);

    set(device, REG_STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    return (get(device, REG_STATUS) & STATUS_FEATURES_OK) != 0; /* the device may refuse */
}

bool virtio_find(enum virtio_kind kind, uint64_t features, struct virtio_device *device)
{
    for (uint32_t slot = 0; slot < BOARD_VIRTIO_SLOTS; slot++) {
        struct virtio_device found = {
            .base = BOARD_VIRTIO + slot * BOARD_VIRTIO_STRIDE,
            .irq = BOARD_VIRTIO_IRQ + slot,
        };
        if (get(&found, REG_MAGIC) != MAGIC || get(&found, REG_VERSION) != VERSION_STANDARD)
            continue;
        if (get(&found, REG_DEVICE_ID) != (uint32_t)kind || !agree(&found, features))
            continue;
        *device = found;
        return true;
    }
    return false;
}

bool virtio_queue_start(const struct virtio_device *device, uint32_t index, struct virtio_queue *queue)
{
    set(device, REG_QUEUE_SELECT, index);
    if (get(device, REG_QUEUE_SIZE_MAX) < VIRTIO_QUEUE_SIZE)
        return false;
    set(device, REG_QUEUE_SIZE, VIRTIO_QUEUE_SIZE);
    set_address(device, REG_QUEUE_DESCRIPTORS, queue->descriptors);
    set_address(device, REG_QUEUE_AVAILABLE, &queue->available);
    set_address(device, REG_QUEUE_USED, &queue->used);
    set(device, REG_QUEUE_READY, 1);
    return true;
}

void virtio_ready(const struct virtio_device *device)
{
    set(device, REG_STATUS, get(device, REG_STATUS) | STATUS_DRIVER_OK);
}

void virtio_queue_offer(struct virtio_queue *queue, uint16_t descriptor)
{
    const uint16_t index = queue->available.index;
    queue->available.ring[index % VIRTIO_QUEUE_SIZE] = descriptor;
    cpu_fence(); /* the device must not see the index before the entry and what it points to */
    queue->available.index = (uint16_t)(index + 1);
}

void virtio_notify(const struct virtio_device *device, uint32_t index)
{
    cpu_fence();
    set(device, REG_QUEUE_NOTIFY, index);
}

bool virtio_queue_has_used(const struct virtio_queue *queue) { return queue->used_seen != queue->used.index; }

void virtio_queue_wait(const struct virtio_queue *queue)
{
    while (!virtio_queue_has_used(queue))
        cpu_sleep_until_interrupt();
}

bool virtio_queue_take(struct virtio_queue *queue, struct virtio_used_element *used)
{
    while (virtio_queue_has_used(queue)) {
        cpu_fence(); /* read the entry only after the index that covers it */
        *used = queue->used.ring[queue->used_seen % VIRTIO_QUEUE_SIZE];
        queue->used_seen = (uint16_t)(queue->used_seen + 1);
        if (used->descriptor < VIRTIO_QUEUE_SIZE)
            return true;
    }
    return false;
}

void virtio_interrupt(void *device)
{
    set(device, REG_INTERRUPT_ACKNOWLEDGE, get(device, REG_INTERRUPT_STATUS));
}

uint8_t virtio_config8(const struct virtio_device *device, uint32_t offset)
{
    return mmio_read8(device->base + REG_CONFIG + offset);
}

uint64_t virtio_config64(const struct virtio_device *device, uint32_t offset)
{
    uint32_t generation;
    uint64_t value;
    do { /* two halves: read again if the device changed in between */
        generation = get(device, REG_CONFIG_GENERATION);
        value = get(device, REG_CONFIG + offset) | (uint64_t)get(device, REG_CONFIG + offset + 4) << 32;
    } while (generation != get(device, REG_CONFIG_GENERATION));
    return value;
}
