#include "chips.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "bus.h"

/* Where KVM may put three pages that some processors need; above RAM, below the firmware's place. */
#define HELPER_PAGES UINT64_C(0xfffbd000)

enum { LINE_COUNT = 8 };
static const uint32_t numbers[] = {KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC};
enum { CHIP_COUNT = sizeof numbers / sizeof numbers[0] };
_Static_assert(CHIP_COUNT == sizeof((kvm_chips *)0)->chips / sizeof(struct kvm_irqchip), "one place for each");

/* The old controllers stay silent: no line leads there, and a system without them never tells them so. */
static int mask_old_controllers(const ftvm_kvm *machine)
{
    for (size_t i = 0; i < CHIP_COUNT - 1; i++) {
        struct kvm_irqchip chip = {.chip_id = numbers[i]};
        if (ioctl(machine->vm, KVM_GET_IRQCHIP, &chip) != 0)
            return -errno;
        chip.chip.pic.imr = 0xff;
        if (ioctl(machine->vm, KVM_SET_IRQCHIP, &chip) != 0)
            return -errno;
    }
    return 0;
}

int kvm_chips_open(const ftvm_kvm *machine)
{
    if (ioctl(machine->vm, KVM_SET_TSS_ADDR, HELPER_PAGES) != 0 || ioctl(machine->vm, KVM_CREATE_IRQCHIP, 0) != 0)
        return -errno;
    return mask_old_controllers(machine);
}

static void set_line(const ftvm_kvm *machine, unsigned line, bool is_high)
{
    struct kvm_irq_level level = {.irq = KVM_LINE_BASE + line, .level = is_high};
    (void)ioctl(machine->vm, KVM_IRQ_LINE, &level); /* fails only for a line or a controller that is not there */
}

void kvm_chips_update(ftvm_kvm *machine)
{
    if (!kvm_is_system(machine))
        return;
    uint32_t lines = kvm_bus_lines(machine), changed = lines ^ machine->lines;
    for (unsigned line = 0; changed >> line != 0; line++) {
        if ((changed >> line & 1) != 0)
            set_line(machine, line, (lines >> line & 1) != 0);
    }
    machine->lines = lines;
}

int kvm_chips_read(const ftvm_kvm *machine, kvm_chips *chips)
{
    memset(chips, 0, sizeof *chips);
    for (size_t i = 0; i < CHIP_COUNT; i++) {
        chips->chips[i].chip_id = numbers[i];
        if (ioctl(machine->vm, KVM_GET_IRQCHIP, &chips->chips[i]) != 0)
            return -errno;
    }
    return 0;
}

bool kvm_chips_write(ftvm_kvm *machine, const kvm_chips *chips)
{
    for (unsigned line = 0; line < LINE_COUNT; line++)
        set_line(machine, line, false);
    machine->lines = 0;
    for (size_t i = 0; i < CHIP_COUNT; i++) {
        struct kvm_irqchip chip = chips->chips[i];
        chip.chip_id = numbers[i]; /* what was loaded does not choose it */
        if (ioctl(machine->vm, KVM_SET_IRQCHIP, &chip) != 0)
            return false;
    }
    return true;
}
