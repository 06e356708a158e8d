/* vcpu: a processor's thread: runs it, serves its accesses, stands still when it is told to. */
#ifndef FTVM_KVM_VCPU_H
#define FTVM_KVM_VCPU_H

#include "machine.h"

/* The thread: a kvm_cpu, until its machine is_closing. */
void *kvm_vcpu_main(void *cpu);

/* Makes all threads look at what has changed; the lock is held. */
void kvm_vcpu_kick(ftvm_kvm *machine);

/* Makes one of them look: there are inputs to be taken. The lock is held. */
void kvm_vcpu_nudge(ftvm_kvm *machine);

/* Whether the machine can run no more; the lock is held. */
bool kvm_vcpu_has_ended(const ftvm_kvm *machine);

/* The signal by which threads are kicked, with a handler in place. Returns 0 or a negative errno. */
int kvm_vcpu_prepare_signal(void);

#endif
