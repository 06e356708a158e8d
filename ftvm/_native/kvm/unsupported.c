/* For systems without KVM for x86-64: no machine can be made there, and so nothing else is ever called. */
#include "../kvm.h"

#include <errno.h>

size_t ftvm_kvm_bytes(void)
{
    return 64;
}

int ftvm_kvm_open(void *memory, const ftvm_kvm_config *config, enum ftvm_kvm_step *step)
{
    (void)memory, (void)config;
    *step = FTVM_KVM_DEVICE;
    return -ENOSYS;
}

void ftvm_kvm_close(ftvm_kvm *machine)
{
    (void)machine;
}

const char *ftvm_kvm_cpu(const ftvm_kvm *machine)
{
    (void)machine;
    return "";
}

int ftvm_kvm_boot(ftvm_kvm *machine, uint64_t pc, uint64_t stack, uint64_t page_table)
{
    (void)machine, (void)pc, (void)stack, (void)page_table;
    return -ENOSYS;
}

int ftvm_kvm_boot_system(ftvm_kvm *machine, uint64_t pc, uint64_t page_table, uint64_t segments,
                         uint64_t boot_parameters)
{
    (void)machine, (void)pc, (void)page_table, (void)segments, (void)boot_parameters;
    return -ENOSYS;
}

void ftvm_kvm_resume(ftvm_kvm *machine)
{
    (void)machine;
}

void ftvm_kvm_pause(ftvm_kvm *machine, int is_attendant)
{
    (void)machine, (void)is_attendant;
}

int ftvm_kvm_is_paused(ftvm_kvm *machine)
{
    (void)machine;
    return 1;
}

void ftvm_kvm_stop_at_output(ftvm_kvm *machine, int is_wanted)
{
    (void)machine, (void)is_wanted;
}

int ftvm_kvm_await(ftvm_kvm *machine)
{
    (void)machine;
    return FTVM_KVM_IS_CLOSING;
}

size_t ftvm_kvm_take(ftvm_kvm *machine, uint8_t *outputs)
{
    (void)machine, (void)outputs;
    return 0;
}

void ftvm_kvm_leave(ftvm_kvm *machine)
{
    (void)machine;
}

void ftvm_kvm_dismiss(ftvm_kvm *machine)
{
    (void)machine;
}

int ftvm_kvm_receive_frame(ftvm_kvm *machine, const uint8_t *frame, size_t bytes)
{
    (void)machine, (void)frame, (void)bytes;
    return 0;
}

int ftvm_kvm_receive_console(ftvm_kvm *machine, const uint8_t *bytes, size_t count)
{
    (void)machine, (void)bytes, (void)count;
    return 0;
}

int ftvm_kvm_ended_by(ftvm_kvm *machine, uint64_t *detail, uint64_t *pc)
{
    (void)machine;
    *detail = *pc = 0;
    return FTVM_KVM_NOT_ENDED;
}

int64_t ftvm_kvm_clock_page(ftvm_kvm *machine, uint32_t processor)
{
    (void)machine, (void)processor;
    return -1;
}

int ftvm_kvm_has_log(const ftvm_kvm *machine)
{
    (void)machine;
    return 0;
}

int ftvm_kvm_collect(ftvm_kvm *machine, uint64_t *words)
{
    (void)machine, (void)words;
    return -ENOSYS;
}

int64_t ftvm_kvm_save(ftvm_kvm *machine, uint8_t *restrict state, size_t capacity)
{
    (void)machine, (void)state, (void)capacity;
    return -ENOSYS;
}

int ftvm_kvm_load(ftvm_kvm *machine, const uint8_t *restrict state, size_t bytes, char *wrong)
{
    (void)machine, (void)state, (void)bytes;
    wrong[0] = '\0';
    return -1;
}

int ftvm_kvm_clocks(ftvm_kvm *machine, uint64_t *clock_ns, uint64_t *ticks)
{
    (void)machine;
    *clock_ns = *ticks = 0;
    return -ENOSYS;
}
