/* The cached interpreter once more, marking what each store writes. */
#define FTVM_RISCV_MARKED
#include "execute_cached.c"
