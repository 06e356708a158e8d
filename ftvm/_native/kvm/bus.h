/* bus: who answers at a port or at an address that is not RAM, and how inputs reach the devices. */
#ifndef FTVM_KVM_BUS_H
#define FTVM_KVM_BUS_H

#include "machine.h"

/* Serves one access of `size` bytes at `data`. What nobody answers reads as ones and is written in vain. */
void kvm_bus_port(ftvm_kvm *machine, uint16_t port, bool is_write, unsigned size, uint8_t *data);
void kvm_bus_memory(ftvm_kvm *machine, uint64_t address, bool is_write, unsigned size, uint8_t *data);

/* Gives the devices as much of what waits as they have room for, and lets a disk go on with what it has left. */
void kvm_bus_feed(ftvm_kvm *machine);

/* The interrupt lines that are high; see port 0x600 in kvm.h. */
uint32_t kvm_bus_lines(const ftvm_kvm *machine);

/* Makes an output of the console's unfinished line, if there is one. */
void kvm_bus_flush(ftvm_kvm *machine);

/* Shows RAM and disk to the devices. */
void kvm_bus_start(ftvm_kvm *machine);

/* Saves or loads our own parts. kvm_bus_load fills *core, which starts as a copy, and returns what is wrong with it. */
void kvm_bus_save(const kvm_core *core, wire_writer *writer);
const char *kvm_bus_load(kvm_core *core, wire_reader *reader);

#endif
