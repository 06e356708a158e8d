#include "hart.h"

static void enter_trap(riscv_hart *hart, uint64_t cause, uint64_t value, uint64_t target)
{
    uint64_t mstatus = hart->mstatus;
    uint64_t kept = mstatus & ~(RISCV_MSTATUS_MIE | RISCV_MSTATUS_MPIE | RISCV_MSTATUS_MPP);
    kept |= (mstatus & RISCV_MSTATUS_MIE) != 0 ? RISCV_MSTATUS_MPIE : 0;
    hart->mstatus = kept | (uint64_t)hart->privilege << 11;
    hart->mepc = hart->pc;
    hart->mcause = cause;
    hart->mtval = value;
    hart->privilege = RISCV_MACHINE;
    hart->has_reservation = false; /* what interrupted code had reserved is not the handler's */
    hart->pc = target;
}

void riscv_hart_trap(riscv_hart *hart, uint64_t cause, uint64_t value)
{
    if ((hart->mcountinhibit & 4) == 0)
        hart->minstret--; /* begun, so counted in `retired`, but not retired in the architecture's sense */
    enter_trap(hart, cause, value, hart->mtvec & ~UINT64_C(3));
}

bool riscv_hart_interrupt(riscv_hart *hart, uint64_t pending)
{
    uint64_t ready = pending & hart->mie;
    bool is_enabled = hart->privilege < RISCV_MACHINE || (hart->mstatus & RISCV_MSTATUS_MIE) != 0;
    if (ready == 0 || !is_enabled)
        return false;
    uint64_t number = (ready & RISCV_MEI) != 0 ? 11 : (ready & RISCV_MSI) != 0 ? 3 : 7;
    uint64_t base = hart->mtvec & ~UINT64_C(3);
    uint64_t target = (hart->mtvec & 1) != 0 ? base + 4 * number : base;
    enter_trap(hart, UINT64_C(1) << 63 | number, 0, target);
    return true;
}

void riscv_hart_return(riscv_hart *hart)
{
    uint64_t mstatus = hart->mstatus;
    uint8_t previous = (uint8_t)((mstatus & RISCV_MSTATUS_MPP) >> 11);
    uint64_t kept = mstatus & ~(RISCV_MSTATUS_MIE | RISCV_MSTATUS_MPP);
    kept |= (mstatus & RISCV_MSTATUS_MPIE) != 0 ? RISCV_MSTATUS_MIE : 0;
    if (previous != RISCV_MACHINE)
        kept &= ~RISCV_MSTATUS_MPRV;
    hart->mstatus = kept | RISCV_MSTATUS_MPIE;
    hart->privilege = previous;
    hart->pc = hart->mepc;
}

unsigned riscv_hart_data_privilege(const riscv_hart *hart)
{
    if ((hart->mstatus & RISCV_MSTATUS_MPRV) != 0)
        return (unsigned)((hart->mstatus & RISCV_MSTATUS_MPP) >> 11);
    return hart->privilege;
}

/* The range that the one pmp entry matches, [*first, *last]; false if it is off or empty. */
static bool pmp_range(const riscv_hart *hart, uint64_t *first, uint64_t *last)
{
    uint64_t address = hart->pmpaddr;
    switch (hart->pmpcfg >> 3 & 3) {
    case 1: /* TOR: from 0 up to the address */
        *first = 0;
        *last = (address << 2) - 1;
        return address != 0;
    case 2: /* NA4 */
        *first = address << 2;
        *last = *first + 3;
        return true;
    case 3: { /* NAPOT: the low ones tell the size; pmpaddr has 54 bits, so the shifts stay in range */
        uint64_t size_ones = address ^ (address + 1);
        *first = (address & ~size_ones) << 2;
        *last = *first + (size_ones << 2 | 3);
        return true;
    }
    default:
        return false;
    }
}

bool riscv_hart_may(const riscv_hart *hart, unsigned privilege, riscv_access access, uint64_t address, uint64_t bytes)
{
    bool is_locked = (hart->pmpcfg & 0x80) != 0;
    if (privilege == RISCV_MACHINE && !is_locked)
        return true;
    uint64_t first, last;
    if (!pmp_range(hart, &first, &last))
        return privilege == RISCV_MACHINE;
    if (address > last || address + (bytes - 1) < first)
        return privilege == RISCV_MACHINE; /* no match: machine mode may, user mode may not */
    return address >= first && address + (bytes - 1) <= last && (hart->pmpcfg & access) == access;
}
