#include "csr.h"

enum {
    MSTATUS = 0x300,
    MISA = 0x301,
    MIE = 0x304,
    MTVEC = 0x305,
    MCOUNTEREN = 0x306,
    MENVCFG = 0x30a,
    MCOUNTINHIBIT = 0x320,
    MHPMEVENT3 = 0x323,
    MHPMEVENT31 = 0x33f,
    MSCRATCH = 0x340,
    MEPC = 0x341,
    MCAUSE = 0x342,
    MTVAL = 0x343,
    MIP = 0x344,
    PMPCFG0 = 0x3a0,
    PMPADDR0 = 0x3b0,
    TSELECT = 0x7a0,
    TDATA3 = 0x7a3,
    MCYCLE = 0xb00,
    MINSTRET = 0xb02,
    MHPMCOUNTER3 = 0xb03,
    MHPMCOUNTER31 = 0xb1f,
    CYCLE = 0xc00,
    TIME = 0xc01,
    INSTRET = 0xc02,
    MVENDORID = 0xf11,
    MCONFIGPTR = 0xf15,
};

#define MISA_VALUE (UINT64_C(2) << 62 | 1 << 0 | 1 << 2 | 1 << 8 | 1 << 12 | 1 << 20) /* 64 bits: A C I M U */
#define MSTATUS_WRITABLE                                                                                              \
    (RISCV_MSTATUS_MIE | RISCV_MSTATUS_MPIE | RISCV_MSTATUS_MPP | RISCV_MSTATUS_MPRV | RISCV_MSTATUS_TW)
#define PMPADDR_WRITABLE ((UINT64_C(1) << 54) - 1)
#define PMPCFG_WRITABLE UINT64_C(0x9f)
#define PMPCFG_LOCKED UINT64_C(0x80)
#define INHIBIT_CYCLE UINT64_C(1)
#define INHIBIT_INSTRET UINT64_C(4)

static bool is_within(unsigned number, unsigned first, unsigned last)
{
    return number >= first && number <= last;
}

static bool is_zero_register(unsigned number)
{
    return is_within(number, MHPMCOUNTER3, MHPMCOUNTER31) || is_within(number, MHPMEVENT3, MHPMEVENT31) ||
           is_within(number, TSELECT, TDATA3) || is_within(number, MVENDORID, MCONFIGPTR) || number == MENVCFG;
}

static uint64_t counter_read(const riscv_hart *hart, uint64_t stored, uint64_t inhibit)
{
    return (hart->mcountinhibit & inhibit) != 0 ? stored : hart->retired + stored;
}

/* What to store so that the next instruction reads `value`. */
static uint64_t counter_stored(const riscv_hart *hart, uint64_t value, uint64_t inhibit)
{
    return (hart->mcountinhibit & inhibit) != 0 ? value : value - (hart->retired + 1);
}

uint64_t riscv_csr_mip(const ftvm_riscv *machine)
{
    const riscv_core *core = &machine->core;
    return (core->clint.msip != 0 ? RISCV_MSI : 0) |
           (riscv_clint_is_due(&core->clint, core->hart.retired + core->hart.idled) ? RISCV_MTI : 0) |
           (riscv_plic_is_pending(&core->plic) ? RISCV_MEI : 0);
}

bool riscv_csr_may(const ftvm_riscv *machine, unsigned number, bool is_write)
{
    const riscv_hart *hart = &machine->core.hart;
    if (is_write && number >> 10 == 3)
        return false; /* read-only by its number */
    if (hart->privilege < (number >> 8 & 3))
        return false;
    if (hart->privilege == RISCV_USER && is_within(number, CYCLE, INSTRET))
        return (hart->mcounteren >> (number - CYCLE) & 1) != 0;
    return true;
}

bool riscv_csr_read(const ftvm_riscv *machine, unsigned number, uint64_t *value)
{
    const riscv_hart *hart = &machine->core.hart;
    switch (number) {
    case MSTATUS: *value = hart->mstatus | RISCV_MSTATUS_UXL; return true;
    case MISA: *value = MISA_VALUE; return true;
    case MIE: *value = hart->mie; return true;
    case MTVEC: *value = hart->mtvec; return true;
    case MCOUNTEREN: *value = hart->mcounteren; return true;
    case MCOUNTINHIBIT: *value = hart->mcountinhibit; return true;
    case MSCRATCH: *value = hart->mscratch; return true;
    case MEPC: *value = hart->mepc; return true;
    case MCAUSE: *value = hart->mcause; return true;
    case MTVAL: *value = hart->mtval; return true;
    case MIP: *value = riscv_csr_mip(machine); return true;
    case PMPCFG0: *value = hart->pmpcfg; return true;
    case PMPADDR0: *value = hart->pmpaddr; return true;
    case MCYCLE:
    case CYCLE: *value = counter_read(hart, hart->mcycle, INHIBIT_CYCLE); return true;
    case MINSTRET:
    case INSTRET: *value = counter_read(hart, hart->minstret, INHIBIT_INSTRET); return true;
    case TIME: *value = (hart->retired + hart->idled) / FTVM_RISCV_TICKS_PER_MTIME; return true;
    default:
        *value = is_zero_register(number) ? 0 : *value;
        return is_zero_register(number);
    }
}

static uint64_t legal_mstatus(uint64_t value)
{
    uint64_t legal = value & MSTATUS_WRITABLE;
    if ((legal & RISCV_MSTATUS_MPP) != RISCV_MSTATUS_MPP)
        legal &= ~RISCV_MSTATUS_MPP; /* only machine and user mode exist */
    return legal;
}

/* What the next instruction reads of a counter, as far as this one does not change it. */
static uint64_t counter_next(const riscv_hart *hart, uint64_t stored, uint64_t inhibit)
{
    return (hart->mcountinhibit & inhibit) != 0 ? stored : hart->retired + 1 + stored;
}

/* A counter goes on from the value at which it was stopped, and stops at the one that it has reached. */
static void write_inhibit(riscv_hart *hart, uint64_t value)
{
    uint64_t cycle = counter_next(hart, hart->mcycle, INHIBIT_CYCLE);
    uint64_t instret = counter_next(hart, hart->minstret, INHIBIT_INSTRET);
    hart->mcountinhibit = value & (INHIBIT_CYCLE | INHIBIT_INSTRET);
    hart->mcycle = counter_stored(hart, cycle, INHIBIT_CYCLE);
    hart->minstret = counter_stored(hart, instret, INHIBIT_INSTRET);
}

void riscv_csr_write(ftvm_riscv *machine, unsigned number, uint64_t value)
{
    riscv_hart *hart = &machine->core.hart;
    bool is_pmp_locked = (hart->pmpcfg & PMPCFG_LOCKED) != 0;
    switch (number) {
    case MSTATUS: hart->mstatus = legal_mstatus(value); break;
    case MIE: hart->mie = value & RISCV_INTERRUPTS; break;
    case MTVEC: hart->mtvec = value & ~UINT64_C(2); break;
    case MCOUNTEREN: hart->mcounteren = value & 7; break;
    case MCOUNTINHIBIT: write_inhibit(hart, value); break;
    case MSCRATCH: hart->mscratch = value; break;
    case MEPC: hart->mepc = value & ~UINT64_C(1); break;
    case MCAUSE: hart->mcause = value; break;
    case MTVAL: hart->mtval = value; break;
    case PMPCFG0: hart->pmpcfg = is_pmp_locked ? hart->pmpcfg : value & PMPCFG_WRITABLE; break;
    case PMPADDR0: hart->pmpaddr = is_pmp_locked ? hart->pmpaddr : value & PMPADDR_WRITABLE; break;
    case MCYCLE: hart->mcycle = counter_stored(hart, value, INHIBIT_CYCLE); break;
    case MINSTRET: hart->minstret = counter_stored(hart, value, INHIBIT_INSTRET); break;
    default: break; /* exists, and all its bits are fixed */
    }
}

bool riscv_csr_are_legal(const riscv_hart *hart)
{
    return hart->mstatus == legal_mstatus(hart->mstatus) && (hart->mie & ~RISCV_INTERRUPTS) == 0 &&
           (hart->mtvec & 2) == 0 && (hart->mepc & 1) == 0 && hart->mcounteren <= 7 &&
           (hart->mcountinhibit & ~(INHIBIT_CYCLE | INHIBIT_INSTRET)) == 0 && (hart->pmpcfg & ~PMPCFG_WRITABLE) == 0 &&
           (hart->pmpaddr & ~PMPADDR_WRITABLE) == 0;
}
