/* kv: a key-value server on bare metal: Ethernet frames in, Ethernet frames out, asleep in between.
 *
 * Its address is 10.77.0.2/24; the boot argument host=3 makes it 10.77.0.3.
 */
#include "../board/boot.h"
#include "../board/clint.h"
#include "../board/cpu.h"
#include "../board/fdt.h"
#include "../board/program.h"
#include "../board/text.h"
#include "../board/uart.h"
#include "../net/stack.h"
#include "../virtio/virtio_net.h"
#include "kv.h"

#define HOST_DEFAULT 2u
#define BOOT_COUNT_BITS 16u

static struct virtio_net net;
static struct stack stack;
static struct kv kv;
static uint64_t first_frame_ticks; /* when this boot got its first frame; names the boot, see kv_protocol.h */

static size_t serve(void *context, struct span request, uint8_t *reply)
{
    const uint64_t count = boot_count() & ((1u << BOOT_COUNT_BITS) - 1);
    const struct kv_vitals vitals = {.uptime = cpu_retired(), .boot = first_frame_ticks << BOOT_COUNT_BITS | count};
    return kv_answer(context, vitals, request, reply);
}

/* Answers one frame. If the device holds all send buffers the answer is lost, as on any wire; the client asks again. */
static void answer(const struct virtio_net_frame *frame)
{
    uint8_t *reply = virtio_net_send_buffer(&net);
    if (reply == NULL)
        return;
    const size_t bytes = stack_answer(&stack, frame->bytes, reply);
    if (bytes != 0)
        virtio_net_send(&net, bytes);
}

static void serve_frames(void)
{
    struct virtio_net_frame frame;
    while (virtio_net_receive(&net, &frame)) {
        if (first_frame_ticks == 0)
            first_frame_ticks = clint_now();
        answer(&frame);
        virtio_net_release(&net, &frame);
    }
}

static void print_start(uint32_t ip)
{
    char room[96];
    struct text line = text_in(room, sizeof room);
    text_add(&line, "kv: serving on ");
    for (unsigned shift = 24;; shift -= 8) {
        text_add_number(&line, ip >> shift & 0xff);
        if (shift == 0)
            break;
        text_add(&line, ".");
    }
    text_add(&line, ":");
    text_add_number(&line, KV_PORT);
    text_add(&line, ", boot ");
    text_add_number(&line, boot_count());
    text_add(&line, "\n");
    uart_write(line.at, line.bytes);
}

static void announce(void)
{
    uint8_t *frame = virtio_net_send_buffer(&net);
    if (frame != NULL)
        virtio_net_send(&net, stack_announce(&stack, frame));
}

int program(const void *device_tree)
{
    static const char no_device[] = "kv: no virtio network device\n";
    const uint64_t host = fdt_argument(device_tree, "host", HOST_DEFAULT);
    const uint32_t ip = IPV4_ADDRESS(10, 77, 0, host <= 254 ? host : HOST_DEFAULT);
    if (!virtio_net_start(&net)) {
        uart_write(no_device, sizeof no_device - 1);
        return 1;
    }
    stack_start(&stack, net.mac, ip, KV_PORT, serve, &kv);
    print_start(ip);
    announce();

    for (;;) {
        serve_frames();
        virtio_net_wait(&net);
    }
}
