/* dirtylog: which pages of RAM were written: by the processors, as KVM's own log says, and by the devices.
 *
 * KVM notes the first write to each page that it protects (2 us under nested paging), and protects again what it is told
 * to. A page that was written in two looks running stays unprotected, and counts as written in each look: the capture's
 * comparison with the shadow sorts out what changed. Every sixteenth look it is protected for one turn, to learn whether
 * it is written still. So what is told may be too much, never too little; of a guest that rests, for fifteen looks.
 *
 * Not seen: what others write to RAM by their own mappings of it, and what KVM writes past all page tables
 * (ftvm_kvm_clock_page).
 *
 * Source: KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG and KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 in the kernel's
 * Documentation/virt/kvm/api.rst. */
#ifndef FTVM_KVM_DIRTYLOG_H
#define FTVM_KVM_DIRTYLOG_H

#include "machine.h"

/* Learns whether KVM has the log, for a machine that has its `vm`. */
void kvm_dirtylog_open(ftvm_kvm *machine);

/* Notes what a device wrote: device_board's `wrote`. */
void kvm_dirtylog_wrote(device_board *board, uint64_t offset, size_t bytes);

/* What ftvm_kvm_collect does; the lock is held, and the machine is paused. */
int kvm_dirtylog_collect(ftvm_kvm *machine, uint64_t *words);

#endif
