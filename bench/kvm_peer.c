/* A bare loop on KVM, with nothing of ftvm: what it takes to see which pages a guest wrote, to copy them, and to read its
 * processor. The guest writes a word in each of so many pages and leaves by a port, at privilege level 3. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define FIRST (16u << 20)

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static struct kvm_segment segment(int is_code)
{
    return (struct kvm_segment){.limit = ~0u, .selector = is_code ? 0x33 : 0x2b, .type = is_code ? 11 : 3, .present = 1,
                                .dpl = 3, .db = !is_code, .s = 1, .l = is_code, .g = 1};
}

/* mov [rdi], rax; add rdi, 4096; dec rcx; jnz; out 0x80, al */
static const uint8_t code[] = {0x48, 0x89, 0x07, 0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0x48,
                               0xff, 0xc9, 0x75, 0xf1, 0xe6, 0x80, 0xeb, 0xfe};

static void map_one_to_one(uint8_t *ram)
{
    uint64_t *top = (uint64_t *)(ram + 0x1000), *middle = (uint64_t *)(ram + 0x2000), *low = (uint64_t *)(ram + 0x3000);
    top[0] = 0x2027;
    middle[0] = 0x3027;
    for (uint64_t i = 0; i < 512; i++)
        low[i] = i << 21 | 0xe7;
}

/* Fills log_s, copy_s and processor_s, `rounds` values each: the seconds of each step after the guest wrote `pages`
 * pages. Returns 0, or -1 if there is no KVM. Memory: 16 MiB and `pages` pages, at most 1 GiB. */
int peer_kvm(const char *device, size_t pages, size_t rounds, double *log_s, double *copy_s, double *processor_s)
{
    size_t bytes = FIRST + pages * PAGE;
    int system = open(device, O_RDWR | O_CLOEXEC);
    int vm = system < 0 ? -1 : ioctl(system, KVM_CREATE_VM, 0);
    int vcpu = vm < 0 ? -1 : ioctl(vm, KVM_CREATE_VCPU, 0);
    if (vcpu < 0)
        return -1;
    uint8_t *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint8_t *copy = malloc(pages * PAGE);
    size_t words = bytes / PAGE / 64 + 1;
    uint64_t *log = calloc(words, 8);
    size_t run_bytes = (size_t)ioctl(system, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_userspace_memory_region region = {
        .flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = bytes, .userspace_addr = (uint64_t)(uintptr_t)ram};
    struct kvm_dirty_log request = {.dirty_bitmap = log};
    struct kvm_sregs system_registers;
    static struct kvm_xsave extended;
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[256];
    } cpuid = {.head = {.nent = 256}};
    map_one_to_one(ram);
    memcpy(ram + 0x100000, code, sizeof code);
    memset(copy, 1, pages * PAGE);
    int wrong = ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) | ioctl(system, KVM_GET_SUPPORTED_CPUID, &cpuid) |
                ioctl(vcpu, KVM_SET_CPUID2, &cpuid) | ioctl(vcpu, KVM_GET_SREGS, &system_registers);
    system_registers.cs = segment(1);
    system_registers.ds = system_registers.es = system_registers.fs = system_registers.gs = system_registers.ss =
        segment(0);
    system_registers.cr0 = 0x80050033;
    system_registers.cr3 = 0x1000;
    system_registers.cr4 = 0x620;
    system_registers.efer = 0x500;
    wrong |= ioctl(vcpu, KVM_SET_SREGS, &system_registers);
    for (size_t round = 0; round < rounds + 2 && !wrong; round++) {
        struct kvm_regs registers = {
            .rip = 0x100000, .rdi = FIRST, .rcx = pages, .rax = round + 1, .rsp = 0x100000, .rflags = 0x3002};
        wrong |= ioctl(vcpu, KVM_SET_REGS, &registers) | ioctl(vcpu, KVM_RUN, 0);
        wrong |= run->exit_reason != KVM_EXIT_IO;
        double started = now();
        wrong |= ioctl(vm, KVM_GET_DIRTY_LOG, &request);
        double logged = now();
        uint8_t *to = copy;
        for (size_t word = 0; word < words; word++) {
            for (uint64_t rest = log[word]; rest != 0; rest &= rest - 1, to += PAGE)
                if (to < copy + pages * PAGE)
                    memcpy(to, ram + (word * 64 + (size_t)__builtin_ctzll(rest)) * PAGE, PAGE);
        }
        double copied = now();
        wrong |= ioctl(vcpu, KVM_GET_REGS, &registers) | ioctl(vcpu, KVM_GET_SREGS, &system_registers) |
                 ioctl(vcpu, KVM_GET_XSAVE, &extended);
        double read = now();
        if (round >= 2) { /* the first sees memory that nobody wrote before */
            log_s[round - 2] = logged - started;
            copy_s[round - 2] = copied - logged;
            processor_s[round - 2] = read - copied;
        }
    }
    munmap(run, run_bytes);
    close(vcpu);
    close(vm);
    close(system);
    munmap(ram, bytes);
    free(copy);
    free(log);
    return wrong ? -1 : 0;
}
