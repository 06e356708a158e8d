/* boot: how often the machine was started with its memory kept. start.S counts; link.ld keeps the record outside .bss.
 *
 * A machine that lost its memory starts again at 1, so a count alone does not show every reboot. What never goes
 * backwards within one boot does: retired instructions (cpu_retired) and everything a program counted in memory.
 */
#ifndef BOOT_H
#define BOOT_H

#include <stdint.h>

struct boot_record {
    uint64_t magic;
    uint64_t count;
};
extern const volatile struct boot_record boot_record;

/* 1 at the first boot, one more at each reset that keeps memory. */
static inline uint64_t boot_count(void) { return boot_record.count; }

#endif
