/* state: all that a takeover needs beside memory, to bytes and back; versioned, little-endian.
 *
 * Loading first reads all bytes, then has KVM take them, in the order that it wants. If KVM refuses a part, what was
 * there before is put back. */
#ifndef FTVM_KVM_STATE_H
#define FTVM_KVM_STATE_H

#include "machine.h"

#include "../devices/wire.h"

/* All that KVM keeps of a processor. */
typedef struct {
    struct kvm_regs registers;
    struct kvm_sregs system;
    struct kvm_xsave extended;
    struct kvm_xcrs extended_control;
    struct kvm_vcpu_events events;
    struct kvm_debugregs debug;
    struct kvm_lapic_state interrupts; /* of a system's only */
    struct kvm_mp_state activity;
    uint64_t msrs[KVM_MSRS_MAX]; /* in the order of the machine's list */
} kvm_processor;

/* Reads a processor. Returns 0 or a negative errno. */
int kvm_processor_read(const ftvm_kvm *machine, unsigned number, kvm_processor *processor);

/* Has a processor be such, but for its model-specific registers: these come behind the clocks, as among them are times
 * by the clocks. Both return NULL, or what KVM did not take: it is then in part the one, in part the other. */
const char *kvm_processor_write(const ftvm_kvm *machine, unsigned number, const kvm_processor *processor);
const char *kvm_processor_write_msrs(const ftvm_kvm *machine, unsigned number, const kvm_processor *processor);

/* What ftvm_kvm_save and ftvm_kvm_load do; the lock is held, and the machine is paused. */
int64_t kvm_state_save(ftvm_kvm *machine, uint8_t *state, size_t capacity);
int kvm_state_load(ftvm_kvm *machine, const uint8_t *state, size_t bytes, char *wrong);

#endif
