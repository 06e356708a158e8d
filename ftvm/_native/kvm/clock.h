/* clock: the guest's time: what it reads now, and how it goes on where a state is loaded. */
#ifndef FTVM_KVM_CLOCK_H
#define FTVM_KVM_CLOCK_H

#include "machine.h"

/* The guest's kvmclock now, in nanoseconds; 0 if KVM does not tell. */
uint64_t kvm_clock_now(const ftvm_kvm *machine);

/* Reads all its clocks. Returns 0 or a negative errno. */
int kvm_clock_read(const ftvm_kvm *machine, kvm_times *times);

/* Has its clocks go on from `times`, by as much as the wall clock has gone on since, within FTVM_KVM_GAP_NS_MAX.
 * Returns 0 or a negative errno: -ERANGE if the time stamp counter would go back, as this host's KVM does not set it. */
int kvm_clock_go_on(const ftvm_kvm *machine, const kvm_times *times);

#endif
