/* cpu: what this machine can run. Internal: each noun with variants asks here, once. */
#ifndef FTVM_CPU_H
#define FTVM_CPU_H

enum ftvm_cpu_level {
    FTVM_CPU_PORTABLE, /* plain C */
    FTVM_CPU_SSE2,     /* every x86-64 */
    FTVM_CPU_AVX2,     /* AVX2 and BMI2, with a pext that is not microcoded */
    FTVM_CPU_AVX512,   /* F, BW, VL, VBMI2, and BMI2 */
};

/* Returns the highest level that this CPU and its operating system support. Cheap after the first call. */
enum ftvm_cpu_level ftvm_cpu_level(void);

#endif
