#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "chips.h"
#include "dirtylog.h"

enum { CPUID_ENTRIES_MAX = 256, MSRS_LISTED_MAX = 1024, XSAVE_BYTES = 4096 };
enum { LEAF_VENDOR = 0, LEAF_MODEL = 1, LEAF_CACHES = 4, LEAF_TOPOLOGY = 0xb, LEAF_TOPOLOGY_2 = 0x1f, LEAF_PARAVIRTUAL = 0x40000001 };
#define LEAF_EXTENDED 0x80000001u
#define LEAF_AMD_TOPOLOGY 0x8000001eu
#define LEAF_AMD_POWER 0x80000007u
#define LEAF_AMD_SIZES 0x80000008u
#define MODEL_ECX_VMX (1u << 5)
#define MODEL_ECX_DEADLINE (1u << 24)
#define MODEL_ECX_HYPERVISOR (1u << 31)
#define MODEL_EDX_SEVERAL (1u << 28)
#define POWER_EDX_INVARIANT (1u << 8)
#define EXTENDED_ECX_SVM (1u << 2)
#define MODEL_EBX_APIC_ID 0xff000000u

/* Of what KVM offers a guest beyond a processor: the clock, and that port delays are needless. Nothing by which KVM
 * would write to RAM unseen (stolen time, asynchronous page faults, end of interrupt), the clock's page excepted. */
#define PARAVIRTUAL_EAX ((1u << 0) | (1u << 1) | (1u << 3) | (1u << 24))

typedef struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[CPUID_ENTRIES_MAX];
} cpuid_table;

typedef struct {
    struct kvm_msr_list head;
    uint32_t index[MSRS_LISTED_MAX];
} msr_table;

static const uint32_t needed[] = {
    KVM_CAP_USER_MEMORY, KVM_CAP_IMMEDIATE_EXIT, KVM_CAP_XSAVE,    KVM_CAP_XCRS,        KVM_CAP_VCPU_EVENTS,
    KVM_CAP_DEBUGREGS,   KVM_CAP_MP_STATE,       KVM_CAP_ADJUST_CLOCK, KVM_CAP_GET_TSC_KHZ,
};

static const uint32_t needed_by_systems[] = {KVM_CAP_IRQCHIP, KVM_CAP_SET_TSS_ADDR, KVM_CAP_TSC_DEADLINE_TIMER,
                                             KVM_CAP_KVMCLOCK_CTRL};

static bool has_all(int system, const uint32_t *capabilities, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (ioctl(system, KVM_CHECK_EXTENSION, capabilities[i]) <= 0)
            return false;
    }
    return true;
}

static int check_capabilities(int system, bool is_for_system)
{
    if (!has_all(system, needed, sizeof needed / sizeof needed[0]) ||
        (is_for_system && !has_all(system, needed_by_systems, sizeof needed_by_systems / sizeof needed_by_systems[0])))
        return -ENOTSUP;
    /* More would be state that KVM_GET_XSAVE does not give; 0: a kernel that knows of no more. */
    return ioctl(system, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2) <= XSAVE_BYTES ? 0 : -ENOTSUP;
}

/* --- what the processor can do --- */

/* Takes out what another host of the same kind would say differently, and what is not saved. */
static void trim(struct kvm_cpuid_entry2 *entry)
{
    switch (entry->function) {
    case LEAF_MODEL:
        entry->ecx &= ~MODEL_ECX_VMX; /* a guest of the guest would be state, too */
        entry->ebx &= ~MODEL_EBX_APIC_ID;
        break;
    case LEAF_EXTENDED: entry->ecx &= ~EXTENDED_ECX_SVM; break;
    case LEAF_TOPOLOGY:
    case LEAF_TOPOLOGY_2: entry->edx = 0; break;
    case LEAF_AMD_TOPOLOGY: entry->eax = entry->ebx = entry->ecx = 0; break;
    case LEAF_PARAVIRTUAL: entry->eax &= PARAVIRTUAL_EAX; break;
    default: break;
    }
}

/* FNV-1a, 64 bits: tells apart what is different by chance; nobody crafts a processor. */
static uint64_t hash(uint64_t value, uint32_t word)
{
    for (unsigned i = 0; i < 4; i++)
        value = (value ^ (word >> (8 * i) & 0xff)) * UINT64_C(0x100000001b3);
    return value;
}

static void name_processor(const cpuid_table *table, char *name, size_t capacity)
{
    char vendor[13] = "unknown";
    unsigned family = 0, model = 0, stepping = 0;
    uint64_t features = UINT64_C(0xcbf29ce484222325);
    for (uint32_t i = 0; i < table->head.nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &table->entries[i];
        const uint32_t words[] = {entry->function, entry->index, entry->eax, entry->ebx, entry->ecx, entry->edx};
        for (size_t word = 0; word < sizeof words / sizeof words[0]; word++)
            features = hash(features, words[word]);
        if (entry->function == LEAF_VENDOR) {
            memcpy(vendor, &entry->ebx, 4);
            memcpy(vendor + 4, &entry->edx, 4);
            memcpy(vendor + 8, &entry->ecx, 4);
        } else if (entry->function == LEAF_MODEL) {
            family = (entry->eax >> 8 & 0xf) + (entry->eax >> 20 & 0xff);
            model = (entry->eax >> 4 & 0xf) | (entry->eax >> 12 & 0xf0);
            stepping = entry->eax & 0xf;
        }
    }
    snprintf(name, capacity, "%s-%u-%u-%u/%016llx", vendor, family, model, stepping, (unsigned long long)features);
}

/* Says to a system which of how many processors this is: packages of one core each. Its time comes by KVM's clock, as a
 * counter that never changes its rate is more than a takeover can promise. */
static void place(struct kvm_cpuid_entry2 *entry, uint32_t number, uint32_t count)
{
    switch (entry->function) {
    case LEAF_MODEL:
        entry->ebx = (entry->ebx & 0xffffu) | count << 16 | number << 24;
        entry->ecx |= MODEL_ECX_HYPERVISOR | MODEL_ECX_DEADLINE;
        entry->edx = (entry->edx & ~MODEL_EDX_SEVERAL) | (count > 1 ? MODEL_EDX_SEVERAL : 0);
        break;
    case LEAF_CACHES: entry->eax = (entry->eax & 0x3fffu) | (count - 1) << 26; break;
    case LEAF_TOPOLOGY:
    case LEAF_TOPOLOGY_2:
        entry->eax = entry->ebx = entry->ecx = 0; /* not told this way */
        entry->edx = number;
        break;
    case LEAF_AMD_POWER: entry->edx &= ~POWER_EDX_INVARIANT; break;
    case LEAF_AMD_SIZES: entry->ecx = count - 1; break;
    case LEAF_AMD_TOPOLOGY:
        entry->eax = entry->ebx = number;
        entry->ecx = 0;
        break;
    default: break;
    }
}

/* Tells each processor what it can do. */
static int set_processors(ftvm_kvm *machine)
{
    cpuid_table table = {.head = {.nent = CPUID_ENTRIES_MAX}};
    if (ioctl(machine->system, KVM_GET_SUPPORTED_CPUID, &table) != 0)
        return -errno;
    for (uint32_t i = 0; i < table.head.nent; i++)
        trim(&table.entries[i]);
    name_processor(&table, machine->cpu, sizeof machine->cpu);
    for (unsigned number = 0; number < machine->cpu_count; number++) {
        for (uint32_t i = 0; i < table.head.nent && kvm_is_system(machine); i++)
            place(&table.entries[i], number, machine->cpu_count);
        if (ioctl(machine->cpus[number].fd, KVM_SET_CPUID2, &table) != 0)
            return -errno;
    }
    return 0;
}

/* --- registers by number --- */

/* Not saved as such: time goes its own way (clock.h); a write to a wall clock register makes KVM write to RAM; the
 * others, those of Hyper-V too, of which some count on while the processor stands, are what the guest is not offered. */
static bool is_skipped(uint32_t index)
{
    bool is_of_hyper_v = index >= 0x40000000 && index <= 0x400001ff;
    bool is_of_kvm = index == 0x11 || index == 0x4b564d00 || (index >= 0x4b564d02 && index <= 0x4b564dff);
    return index == 0x10 || is_of_kvm || is_of_hyper_v;
}

/* Whether what KVM gives for a register it takes back. */
static bool goes_both_ways(int vcpu, uint32_t index)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = {.head = {.nmsrs = 1}, .entry = {.index = index}};
    return ioctl(vcpu, KVM_GET_MSRS, &msr) == 1 && ioctl(vcpu, KVM_SET_MSRS, &msr) == 1;
}

static bool is_listed(const ftvm_kvm *machine, uint32_t index)
{
    for (uint32_t i = 0; i < machine->msrs.count; i++) {
        if (machine->msrs.index[i] == index)
            return true;
    }
    return false;
}

static int list_msr(ftvm_kvm *machine, uint32_t index)
{
    if (is_skipped(index) || is_listed(machine, index) || !goes_both_ways(machine->cpus[0].fd, index))
        return 0;
    if (machine->msrs.count == KVM_MSRS_MAX)
        return -E2BIG;
    machine->msrs.index[machine->msrs.count++] = index;
    return 0;
}

/* Which memory may be cached: a system's, and not on each kernel's list. First and last of each range of numbers. */
static const uint32_t of_caching[][2] = {{0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259}, {0x268, 0x26f}, {0x2ff, 0x2ff}};

static int list_msrs(ftvm_kvm *machine)
{
    msr_table table = {.head = {.nmsrs = MSRS_LISTED_MAX}};
    int error = 0;
    if (ioctl(machine->system, KVM_GET_MSR_INDEX_LIST, &table) != 0)
        return -errno;
    for (uint32_t i = 0; i < table.head.nmsrs && error == 0; i++)
        error = list_msr(machine, table.index[i]);
    for (size_t range = 0; range < sizeof of_caching / sizeof of_caching[0] && kvm_is_system(machine); range++) {
        for (uint32_t index = of_caching[range][0]; index <= of_caching[range][1] && error == 0; index++)
            error = list_msr(machine, index);
    }
    return error;
}

/* --- opening --- */

static int open_system(ftvm_kvm *machine, enum ftvm_kvm_step *step)
{
    *step = FTVM_KVM_DEVICE;
    machine->system = open(machine->config.device, O_RDWR | O_CLOEXEC);
    if (machine->system < 0)
        return -errno;
    *step = FTVM_KVM_VERSION;
    int version = ioctl(machine->system, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return version < 0 ? -errno : -EPROTO;
    *step = FTVM_KVM_CAPABILITY;
    return check_capabilities(machine->system, kvm_is_system(machine));
}

int kvm_vm_give_memory(const ftvm_kvm *machine, bool is_logged)
{
    struct kvm_userspace_memory_region region = {.flags = is_logged ? KVM_MEM_LOG_DIRTY_PAGES : 0,
                                                 .memory_size = machine->config.ram_bytes,
                                                 .userspace_addr = (uint64_t)(uintptr_t)machine->config.ram};
    return ioctl(machine->vm, KVM_SET_USER_MEMORY_REGION, &region) == 0 ? 0 : -errno;
}

static int make_processor(ftvm_kvm *machine, unsigned number)
{
    kvm_cpu *cpu = &machine->cpus[number];
    cpu->fd = ioctl(machine->vm, KVM_CREATE_VCPU, number);
    if (cpu->fd < 0)
        return -errno;
    void *run = mmap(NULL, machine->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
    if (run == MAP_FAILED)
        return -errno;
    cpu->run = run;
    return 0;
}

static int make_processors(ftvm_kvm *machine)
{
    int bytes = ioctl(machine->system, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (bytes < (int)sizeof(struct kvm_run))
        return bytes < 0 ? -errno : -EPROTO;
    machine->run_bytes = (size_t)bytes;
    /* A system's processor may be changed by another one when it stands still already: its interrupts, its start. */
    machine->syncs = !kvm_is_system(machine) &&
                     (ioctl(machine->system, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS) & KVM_SYNCED) == KVM_SYNCED;
    int error = kvm_is_system(machine) ? kvm_chips_open(machine) : 0;
    for (unsigned number = 0; number < machine->cpu_count && error == 0; number++)
        error = make_processor(machine, number);
    return error != 0 ? error : set_processors(machine);
}

static int learn_processor(ftvm_kvm *machine)
{
    int error = make_processors(machine);
    if (error != 0)
        return error;
    int khz = ioctl(machine->cpus[0].fd, KVM_GET_TSC_KHZ, 0);
    if (khz <= 0)
        return khz < 0 ? -errno : -EPROTO;
    machine->tsc_khz = (uint32_t)khz;
    return list_msrs(machine);
}

static void prepare(ftvm_kvm *machine)
{
    machine->cpu_count = kvm_is_system(machine) ? machine->config.processors : 1;
    for (unsigned i = 0; i < KVM_CPUS_MAX; i++)
        machine->cpus[i] = (kvm_cpu){.machine = machine, .fd = -1};
}

int kvm_vm_open(ftvm_kvm *machine, enum ftvm_kvm_step *step)
{
    prepare(machine);
    int error = open_system(machine, step);
    if (error != 0)
        return error;
    *step = FTVM_KVM_CREATE;
    machine->vm = ioctl(machine->system, KVM_CREATE_VM, 0);
    if (machine->vm < 0)
        return -errno;
    *step = FTVM_KVM_MEMORY;
    error = kvm_vm_give_memory(machine, false);
    if (error != 0)
        return error;
    kvm_dirtylog_open(machine);
    *step = FTVM_KVM_CREATE;
    return learn_processor(machine);
}

void kvm_vm_close(ftvm_kvm *machine)
{
    int *const descriptors[] = {&machine->vm, &machine->system};
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        kvm_cpu *cpu = &machine->cpus[i];
        if (cpu->run != NULL)
            munmap(cpu->run, machine->run_bytes);
        if (cpu->fd >= 0)
            close(cpu->fd);
        cpu->run = NULL;
        cpu->fd = -1;
    }
    for (size_t i = 0; i < sizeof descriptors / sizeof descriptors[0]; i++) {
        if (*descriptors[i] >= 0)
            close(*descriptors[i]);
        *descriptors[i] = -1;
    }
}
