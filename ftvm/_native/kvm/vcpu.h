/* vcpu: the machine's thread: runs the processor, serves its accesses, stands still when it is told to. */
#ifndef FTVM_KVM_VCPU_H
#define FTVM_KVM_VCPU_H

#include "machine.h"

/* The thread: `machine` until is_closing. */
void *kvm_vcpu_main(void *machine);

/* Makes the thread look at what has changed; the lock is held. */
void kvm_vcpu_kick(ftvm_kvm *machine);

/* Whether the machine can run no more; the lock is held. */
bool kvm_vcpu_has_ended(const ftvm_kvm *machine);

/* The signal by which the thread is kicked, with a handler in place. Returns 0 or a negative errno. */
int kvm_vcpu_prepare_signal(void);

#endif
