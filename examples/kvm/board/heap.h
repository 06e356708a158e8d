/* heap: memory behind the program, handed out in order and never taken back. */
#ifndef HEAP_H
#define HEAP_H

#include <stddef.h>

/* `bytes` bytes, aligned to a page; NULL if the machine that every program may count on has no more. */
void *heap_take(size_t bytes);

#endif
