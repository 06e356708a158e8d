/* vm: the virtual machine and its processors, as KVM makes them, and what a processor can do. */
#ifndef FTVM_KVM_VM_H
#define FTVM_KVM_VM_H

#include "machine.h"

/* Opens all descriptors and fills cpus, msrs, tsc_khz and cpu. Returns 0 or a negative errno; *step is what failed, and
 * kvm_vm_close is still to be called. */
int kvm_vm_open(ftvm_kvm *machine, enum ftvm_kvm_step *step);

/* Gives the machine its RAM, or changes whether KVM notes what is written to it. Returns 0 or a negative errno. */
int kvm_vm_give_memory(const ftvm_kvm *machine, bool is_logged);

/* Closes what is open. */
void kvm_vm_close(ftvm_kvm *machine);

#endif
