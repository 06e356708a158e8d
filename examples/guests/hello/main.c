/* hello: greets, with the C library's printf, and tells about the machine it woke up on. */
#include <inttypes.h>
#include <stdio.h>

#include "../board/boot.h"
#include "../board/cpu.h"
#include "../board/fdt.h"
#include "../board/program.h"

/* The extensions in misa: bit 0 is A, bit 25 is Z. */
static void print_extensions(void)
{
    uint64_t misa;
    __asm__ volatile("csrr %0, misa" : "=r"(misa));
    printf("hello: extensions ");
    for (unsigned bit = 0; bit < 26; bit++)
        if ((misa >> bit & 1) != 0)
            putchar((int)('A' + bit));
    putchar('\n');
}

int program(const void *device_tree)
{
    printf("hello: this is boot %" PRIu64 "\n", boot_count());
    print_extensions();
    printf("hello: %" PRIu64 " MiB of memory\n", fdt_memory_bytes(device_tree) >> 20);
    printf("hello: instructions have %s\n", cpu_retired() > 0 ? "been counted" : "not been counted");
    return 0;
}
