/* fdt_on_host: the programs' device tree reader as a filter, built for the host with sanitizers.
 *
 * Reads trees from standard input (u32 big-endian length, then the tree) and writes a line for each: the memory's
 * bytes, the argument `pages` (77 if it is not given), and whether `pattern` is `random`. A tree that says it is
 * longer than it is finds zeros behind itself, as far as the reader may look.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "board/fdt.h"

static uint32_t be32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

int main(void)
{
    uint8_t length[4];
    while (fread(length, 1, sizeof length, stdin) == sizeof length) {
        const size_t bytes = be32(length);
        uint8_t *given = calloc(1, bytes < 40 ? 40 : bytes);
        if (given == NULL || fread(given, 1, bytes, stdin) != bytes)
            return 2;
        const size_t said = be32(given + 4);
        const size_t readable = said > bytes && said <= FDT_BYTES_MAX ? said : bytes < 40 ? 40 : bytes;
        uint8_t *tree = realloc(given, readable);
        if (tree == NULL)
            return 2;
        for (size_t i = bytes; i < readable; i++)
            tree[i] = 0;
        printf("%" PRIu64 " %" PRIu64 " %d\n", fdt_memory_bytes(tree), fdt_argument(tree, "pages", 77),
               fdt_argument_is(tree, "pattern", "random"));
        fflush(stdout);
        free(tree);
    }
    return 0;
}
