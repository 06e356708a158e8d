/* fdt: reads the flattened device tree that the machine hands over. Only what these programs want to know: the boot
 * arguments (how a user sets a program up) and the size of the memory.
 *
 * Safe on any bytes that lie in readable memory: every offset is checked against the size in the header, which is
 * checked against FDT_BYTES_MAX. What is not a tree counts as an empty tree.
 *
 * Source: Devicetree Specification 0.4, chapter 5 (flattened format).
 */
#ifndef FDT_H
#define FDT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FDT_BYTES_MAX (1u << 20)

struct fdt_property {
    const uint8_t *at; /* big-endian, as in the tree; NULL without one */
    size_t bytes;
};

/* Finds property `name` of the first top-level node that is called `node`, with or without an @address. */
struct fdt_property fdt_find(const void *tree, const char *node, const char *name);

/* The memory's bytes; BOARD_MEMORY_BYTES_MIN if the tree does not say (addresses and sizes of 64 bits, one range). */
uint64_t fdt_memory_bytes(const void *tree);

/* A number from the boot arguments: with "... name=123 ..." it is 123. Decimal digits only; `otherwise` if the name is
 * missing, or what follows is no number or none of 64 bits. */
uint64_t fdt_argument(const void *tree, const char *name, uint64_t otherwise);

/* Whether the boot arguments say name=value. */
bool fdt_argument_is(const void *tree, const char *name, const char *value);

#endif
