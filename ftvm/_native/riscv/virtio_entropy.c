#include "virtio_entropy.h"

#include "bus.h"

enum { REQUESTS = 0 };

size_t riscv_virtio_entropy_wanted(const ftvm_riscv *machine)
{
    riscv_chain chain;
    bool is_ready = riscv_virtq_peek(machine, &machine->core.entropy, REQUESTS, &chain) == RISCV_CHAIN_READY;
    return is_ready ? chain.writable_bytes : 0;
}

size_t riscv_virtio_entropy_receive(ftvm_riscv *machine, const uint8_t *bytes, size_t count)
{
    riscv_chain chain;
    if (count == 0 || riscv_virtq_peek(machine, &machine->core.entropy, REQUESTS, &chain) != RISCV_CHAIN_READY)
        return 0;
    size_t taken = riscv_chain_write(machine, &chain, 0, bytes, count);
    riscv_virtq_use(machine, &machine->core.entropy, REQUESTS, &chain, (uint32_t)taken);
    return taken;
}

/* The driver's wish stays in its queue until an input fills it: only a broken queue is refused now. */
static void notify(ftvm_riscv *machine, riscv_virtio *virtio, unsigned index)
{
    riscv_chain chain;
    riscv_virtq_take(machine, virtio, index, &chain);
}

static size_t config(const ftvm_riscv *machine, uint8_t *bytes, size_t capacity)
{
    (void)machine, (void)bytes, (void)capacity;
    return 0;
}

const riscv_virtio_type riscv_virtio_entropy = {
    .device_id = 4,
    .queue_count = 1,
    .features = RISCV_VIRTIO_VERSION_1,
    .notify = notify,
    .config = config,
};
