#include "cpu.h"

#include <stdatomic.h>

#if defined(__x86_64__)

/* pext and pdep take 18 to 300 cycles on AMD before Zen 3: there, the variant without them is the faster one. */
static int pext_is_slow(void)
{
    return __builtin_cpu_is("bdver4") || __builtin_cpu_is("znver1") || __builtin_cpu_is("znver2");
}

static enum ftvm_cpu_level level_detect(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") || pext_is_slow())
        return FTVM_CPU_SSE2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vbmi2"))
        return FTVM_CPU_AVX512;
    return FTVM_CPU_AVX2;
}

#else

static enum ftvm_cpu_level level_detect(void)
{
    return FTVM_CPU_PORTABLE;
}

#endif

enum ftvm_cpu_level ftvm_cpu_level(void)
{
    /* Threads that race here find the same answer. */
    static atomic_int known = -1;
    int level = atomic_load_explicit(&known, memory_order_relaxed);
    if (level < 0) {
        level = (int)level_detect();
        atomic_store_explicit(&known, level, memory_order_relaxed);
    }
    return (enum ftvm_cpu_level)level;
}
