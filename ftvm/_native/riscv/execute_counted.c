/* The cached interpreter once more, counting each instruction and noting each jump. */
#define FTVM_RISCV_COUNTED
#include "execute_cached.c"
