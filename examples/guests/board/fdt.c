#include "fdt.h"

#include <string.h>

#include "board.h"

#define FDT_MAGIC 0xd00dfeedu
#define FDT_HEADER_BYTES 40u
#define AT_MAGIC 0u
#define AT_TOTAL_BYTES 4u
#define AT_STRUCTURE 8u
#define AT_STRINGS 12u

#define FDT_BEGIN_NODE 1u
#define FDT_END_NODE 2u
#define FDT_PROPERTY 3u
#define FDT_NOP 4u

static const struct fdt_property nothing = {.at = NULL, .bytes = 0};

struct tree {
    const uint8_t *at;
    size_t bytes;
    size_t strings; /* offset of the property names */
};

/* One step of a walk through the structure block. */
struct token {
    uint32_t kind;
    const char *name; /* of a node or a property */
    struct fdt_property value;
    size_t next; /* offset of the token behind */
};

static uint32_t be32_at(const struct tree *tree, size_t offset)
{
    if (tree->bytes < 4 || offset > tree->bytes - 4)
        return 0; /* as a token: none that is known, so the walk ends */
    const uint8_t *p = tree->at + offset;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* The string at `offset`, or "" if it has no end within the tree. */
static const char *string_at(const struct tree *tree, size_t offset)
{
    if (offset >= tree->bytes || memchr(tree->at + offset, '\0', tree->bytes - offset) == NULL)
        return "";
    return (const char *)tree->at + offset;
}

static size_t align4(size_t offset) { return (offset + 3) & ~(size_t)3; }

static bool open_tree(const void *at, struct tree *tree)
{
    *tree = (struct tree){.at = at, .bytes = FDT_HEADER_BYTES};
    if (at == NULL || be32_at(tree, AT_MAGIC) != FDT_MAGIC || be32_at(tree, AT_TOTAL_BYTES) > FDT_BYTES_MAX)
        return false;
    tree->strings = be32_at(tree, AT_STRINGS);
    tree->bytes = be32_at(tree, AT_TOTAL_BYTES);
    return true;
}

/* Reads the token at `offset`. Returns false at the end of the tree, or where it makes no sense. */
static bool read_token(const struct tree *tree, size_t offset, struct token *token)
{
    *token = (struct token){.kind = be32_at(tree, offset), .name = "", .next = offset + 4};
    switch (token->kind) {
    case FDT_BEGIN_NODE:
        token->name = string_at(tree, token->next);
        token->next = align4(token->next + strlen(token->name) + 1);
        return true;
    case FDT_PROPERTY:
        token->value.bytes = be32_at(tree, offset + 4);
        token->name = string_at(tree, tree->strings + be32_at(tree, offset + 8));
        if (offset + 12 > tree->bytes || token->value.bytes > tree->bytes - (offset + 12))
            return false;
        token->value.at = tree->at + offset + 12;
        token->next = align4(offset + 12 + token->value.bytes);
        return true;
    case FDT_END_NODE:
    case FDT_NOP:
        return true;
    default:
        return false;
    }
}

static bool is_called(const char *full, const char *node)
{
    const size_t length = strlen(node);
    return strncmp(full, node, length) == 0 && (full[length] == '\0' || full[length] == '@');
}

struct fdt_property fdt_find(const void *at, const char *node, const char *name)
{
    struct tree tree;
    struct token token;
    size_t depth = 0; /* 1 within the root, 2 within a top-level node */
    bool is_inside = false;
    if (!open_tree(at, &tree))
        return nothing;
    for (size_t offset = be32_at(&tree, AT_STRUCTURE); read_token(&tree, offset, &token); offset = token.next) {
        if (token.kind == FDT_BEGIN_NODE && ++depth == 2)
            is_inside = is_called(token.name, node);
        else if (token.kind == FDT_END_NODE)
            depth -= 1;
        else if (token.kind == FDT_PROPERTY && depth == 2 && is_inside && strcmp(token.name, name) == 0)
            return token.value;
    }
    return nothing;
}

uint64_t fdt_memory_bytes(const void *at)
{
    const struct fdt_property reg = fdt_find(at, "memory", "reg");
    uint64_t bytes = 0;
    if (reg.bytes < 16)
        return BOARD_MEMORY_BYTES_MIN;
    for (size_t i = 8; i < 16; i++)
        bytes = bytes << 8 | reg.at[i];
    return bytes;
}

/* What follows "name=" in the boot arguments, up to a space or the end. */
static struct fdt_property argument(const void *at, const char *name)
{
    const struct fdt_property line = fdt_find(at, "chosen", "bootargs");
    const size_t length = strlen(name);
    for (size_t i = 0; i + length < line.bytes; i++) {
        const bool is_word_start = i == 0 || line.at[i - 1] == ' ';
        if (!is_word_start || memcmp(line.at + i, name, length) != 0 || line.at[i + length] != '=')
            continue;
        const size_t first = i + length + 1;
        size_t end = first;
        while (end < line.bytes && line.at[end] != ' ' && line.at[end] != '\0')
            end += 1;
        return (struct fdt_property){.at = line.at + first, .bytes = end - first};
    }
    return nothing;
}

uint64_t fdt_argument(const void *at, const char *name, uint64_t otherwise)
{
    const struct fdt_property value = argument(at, name);
    uint64_t number = 0;
    for (size_t i = 0; i < value.bytes; i++) {
        const uint8_t digit = (uint8_t)(value.at[i] - '0');
        if (digit > 9 || number > (UINT64_MAX - digit) / 10)
            return otherwise;
        number = number * 10 + digit;
    }
    return value.bytes == 0 ? otherwise : number;
}

bool fdt_argument_is(const void *at, const char *name, const char *expected)
{
    const struct fdt_property value = argument(at, name);
    return value.bytes == strlen(expected) && memcmp(value.at, expected, value.bytes) == 0;
}
