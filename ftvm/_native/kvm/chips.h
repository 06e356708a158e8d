/* chips: the interrupt controllers of a machine that runs a system: KVM plays them, next to the processors. */
#ifndef FTVM_KVM_CHIPS_H
#define FTVM_KVM_CHIPS_H

#include "machine.h"

/* All that KVM keeps of them, beside the part that belongs to each processor. */
typedef struct {
    struct kvm_irqchip chips[3];
} kvm_chips;

/* Makes them; before any processor is made. Returns 0 or a negative errno. */
int kvm_chips_open(const ftvm_kvm *machine);

/* Tells them which devices' lines have become high or low. Does nothing for a program's machine. */
void kvm_chips_update(ftvm_kvm *machine);

/* Reads them. Returns 0 or a negative errno. */
int kvm_chips_read(const ftvm_kvm *machine, kvm_chips *chips);

/* Has them be such, with all lines low: the next update raises those that are high. Behind the processors. Returns
 * whether KVM takes them. */
bool kvm_chips_write(ftvm_kvm *machine, const kvm_chips *chips);

#endif
