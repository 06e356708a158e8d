#include "decode.h"

#include "hart.h"

/* --- fields --- */

static uint32_t bits(uint32_t raw, unsigned from, unsigned count)
{
    return raw >> from & ((UINT32_C(1) << count) - 1);
}

static int32_t sign_extend(uint32_t value, unsigned width)
{
    uint32_t sign = UINT32_C(1) << (width - 1);
    return (int32_t)((value ^ sign) - sign);
}

static int32_t imm_i(uint32_t raw)
{
    return sign_extend(raw >> 20, 12);
}

static int32_t imm_s(uint32_t raw)
{
    return sign_extend(bits(raw, 25, 7) << 5 | bits(raw, 7, 5), 12);
}

static int32_t imm_b(uint32_t raw)
{
    uint32_t value = bits(raw, 31, 1) << 12 | bits(raw, 7, 1) << 11 | bits(raw, 25, 6) << 5 | bits(raw, 8, 4) << 1;
    return sign_extend(value, 13);
}

static int32_t imm_j(uint32_t raw)
{
    uint32_t value = bits(raw, 31, 1) << 20 | bits(raw, 12, 8) << 12 | bits(raw, 20, 1) << 11 | bits(raw, 21, 10) << 1;
    return sign_extend(value, 21);
}

static uint8_t destination(uint32_t number)
{
    return (uint8_t)(number == 0 ? RISCV_X_DISCARD : number);
}

static void set(riscv_operation *operation, uint8_t op, uint32_t rd, uint32_t rs1, uint32_t rs2, int32_t imm)
{
    *operation = (riscv_operation){
        .op = op, .rd = destination(rd), .rs1 = (uint8_t)rs1, .rs2 = (uint8_t)rs2, .imm = imm};
}

/* --- 32-bit instructions, one function per major opcode that needs a choice; each returns ILLEGAL where it finds none
 * --- */

static uint8_t branch(uint32_t funct3)
{
    static const uint8_t ops[8] = {RISCV_OP_BEQ,     RISCV_OP_BNE, RISCV_OP_ILLEGAL, RISCV_OP_ILLEGAL,
                                   RISCV_OP_BLT,     RISCV_OP_BGE, RISCV_OP_BLTU,    RISCV_OP_BGEU};
    return ops[funct3];
}

static uint8_t load(uint32_t funct3)
{
    static const uint8_t ops[8] = {RISCV_OP_LB,  RISCV_OP_LH,  RISCV_OP_LW,  RISCV_OP_LD,
                                   RISCV_OP_LBU, RISCV_OP_LHU, RISCV_OP_LWU, RISCV_OP_ILLEGAL};
    return ops[funct3];
}

static uint8_t store(uint32_t funct3)
{
    static const uint8_t ops[8] = {RISCV_OP_SB, RISCV_OP_SH, RISCV_OP_SW, RISCV_OP_SD};
    return funct3 < 4 ? ops[funct3] : RISCV_OP_ILLEGAL;
}

static uint8_t shift_immediate(uint32_t raw, uint8_t left, uint8_t right, uint8_t right_signed, uint32_t high)
{
    if (bits(raw, 12, 3) == 1)
        return high == 0 ? left : RISCV_OP_ILLEGAL;
    return high == 0 ? right : high == 0x10 ? right_signed : RISCV_OP_ILLEGAL;
}

static void decode_op_imm(uint32_t raw, riscv_operation *operation)
{
    static const uint8_t ops[8] = {RISCV_OP_ADDI, 0, RISCV_OP_SLTI, RISCV_OP_SLTIU,
                                   RISCV_OP_XORI, 0, RISCV_OP_ORI,  RISCV_OP_ANDI};
    uint32_t funct3 = bits(raw, 12, 3);
    bool is_shift = funct3 == 1 || funct3 == 5;
    uint8_t op = ops[funct3];
    if (is_shift)
        op = shift_immediate(raw, RISCV_OP_SLLI, RISCV_OP_SRLI, RISCV_OP_SRAI, bits(raw, 26, 6));
    set(operation, op, bits(raw, 7, 5), bits(raw, 15, 5), 0, is_shift ? (int32_t)bits(raw, 20, 6) : imm_i(raw));
}

static void decode_op_imm_32(uint32_t raw, riscv_operation *operation)
{
    uint32_t funct3 = bits(raw, 12, 3);
    bool is_shift = funct3 == 1 || funct3 == 5;
    uint32_t high = bits(raw, 25, 7);
    uint8_t op = funct3 == 0 ? RISCV_OP_ADDIW : RISCV_OP_ILLEGAL;
    if (is_shift && (high & 1) == 0)
        op = shift_immediate(raw, RISCV_OP_SLLIW, RISCV_OP_SRLIW, RISCV_OP_SRAIW, high >> 1);
    set(operation, op, bits(raw, 7, 5), bits(raw, 15, 5), 0, is_shift ? (int32_t)bits(raw, 20, 5) : imm_i(raw));
}

static uint8_t register_op(uint32_t funct7, uint32_t funct3)
{
    static const uint8_t base[8] = {RISCV_OP_ADD, RISCV_OP_SLL, RISCV_OP_SLT, RISCV_OP_SLTU,
                                    RISCV_OP_XOR, RISCV_OP_SRL, RISCV_OP_OR,  RISCV_OP_AND};
    static const uint8_t multiply[8] = {RISCV_OP_MUL, RISCV_OP_MULH, RISCV_OP_MULHSU, RISCV_OP_MULHU,
                                        RISCV_OP_DIV, RISCV_OP_DIVU, RISCV_OP_REM,    RISCV_OP_REMU};
    if (funct7 == 0)
        return base[funct3];
    if (funct7 == 1)
        return multiply[funct3];
    if (funct7 == 0x20 && funct3 == 0)
        return RISCV_OP_SUB;
    return funct7 == 0x20 && funct3 == 5 ? RISCV_OP_SRA : RISCV_OP_ILLEGAL;
}

static uint8_t register_op_32(uint32_t funct7, uint32_t funct3)
{
    static const uint8_t base[8] = {RISCV_OP_ADDW, RISCV_OP_SLLW, 0, 0, 0, RISCV_OP_SRLW, 0, 0};
    static const uint8_t multiply[8] = {RISCV_OP_MULW, 0,              0,             0,
                                        RISCV_OP_DIVW, RISCV_OP_DIVUW, RISCV_OP_REMW, RISCV_OP_REMUW};
    _Static_assert(RISCV_OP_ILLEGAL == 0, "holes in the tables are illegal");
    if (funct7 == 0)
        return base[funct3];
    if (funct7 == 1)
        return multiply[funct3];
    if (funct7 == 0x20 && funct3 == 0)
        return RISCV_OP_SUBW;
    return funct7 == 0x20 && funct3 == 5 ? RISCV_OP_SRAW : RISCV_OP_ILLEGAL;
}

/* Bits 27 to 31 choose; aq and rl order nothing on a single hart. */
static uint8_t atomic(uint32_t raw)
{
    uint32_t funct3 = bits(raw, 12, 3);
    uint8_t op;
    switch (bits(raw, 27, 5)) {
    case 0x02: op = bits(raw, 20, 5) == 0 ? RISCV_OP_LR_W : RISCV_OP_ILLEGAL; break;
    case 0x03: op = RISCV_OP_SC_W; break;
    case 0x01: op = RISCV_OP_AMOSWAP_W; break;
    case 0x00: op = RISCV_OP_AMOADD_W; break;
    case 0x04: op = RISCV_OP_AMOXOR_W; break;
    case 0x0c: op = RISCV_OP_AMOAND_W; break;
    case 0x08: op = RISCV_OP_AMOOR_W; break;
    case 0x10: op = RISCV_OP_AMOMIN_W; break;
    case 0x14: op = RISCV_OP_AMOMAX_W; break;
    case 0x18: op = RISCV_OP_AMOMINU_W; break;
    case 0x1c: op = RISCV_OP_AMOMAXU_W; break;
    default: op = RISCV_OP_ILLEGAL; break;
    }
    if (op == RISCV_OP_ILLEGAL || (funct3 != 2 && funct3 != 3))
        return RISCV_OP_ILLEGAL;
    return (uint8_t)(funct3 == 2 ? op : op + (RISCV_OP_LR_D - RISCV_OP_LR_W));
}

static uint8_t privileged(uint32_t raw)
{
    switch (raw) {
    case 0x00000073: return RISCV_OP_ECALL;
    case 0x00100073: return RISCV_OP_EBREAK;
    case 0x30200073: return RISCV_OP_MRET;
    case 0x10500073: return RISCV_OP_WFI;
    default: return RISCV_OP_ILLEGAL;
    }
}

static uint8_t system_op(uint32_t raw)
{
    static const uint8_t ops[8] = {0, RISCV_OP_CSRRW,  RISCV_OP_CSRRS,  RISCV_OP_CSRRC,
                                   0, RISCV_OP_CSRRWI, RISCV_OP_CSRRSI, RISCV_OP_CSRRCI};
    uint32_t funct3 = bits(raw, 12, 3);
    return funct3 == 0 ? privileged(raw) : ops[funct3];
}

static void decode_full(uint32_t raw, riscv_operation *operation)
{
    uint32_t rd = bits(raw, 7, 5), rs1 = bits(raw, 15, 5), rs2 = bits(raw, 20, 5), funct3 = bits(raw, 12, 3);
    int32_t upper = (int32_t)(raw & 0xfffff000);
    switch (raw & 0x7f) {
    case 0x37: set(operation, RISCV_OP_LUI, rd, 0, 0, upper); return;
    case 0x17: set(operation, RISCV_OP_AUIPC, rd, 0, 0, upper); return;
    case 0x6f: set(operation, RISCV_OP_JAL, rd, 0, 0, imm_j(raw)); return;
    case 0x67: set(operation, funct3 == 0 ? RISCV_OP_JALR : RISCV_OP_ILLEGAL, rd, rs1, 0, imm_i(raw)); return;
    case 0x63: set(operation, branch(funct3), 0, rs1, rs2, imm_b(raw)); return;
    case 0x03: set(operation, load(funct3), rd, rs1, 0, imm_i(raw)); return;
    case 0x23: set(operation, store(funct3), 0, rs1, rs2, imm_s(raw)); return;
    case 0x13: decode_op_imm(raw, operation); return;
    case 0x1b: decode_op_imm_32(raw, operation); return;
    case 0x33: set(operation, register_op(raw >> 25, funct3), rd, rs1, rs2, 0); return;
    case 0x3b: set(operation, register_op_32(raw >> 25, funct3), rd, rs1, rs2, 0); return;
    case 0x2f: set(operation, atomic(raw), rd, rs1, rs2, 0); return;
    case 0x0f: set(operation, funct3 <= 1 ? RISCV_OP_FENCE : RISCV_OP_ILLEGAL, 0, 0, 0, 0); return;
    case 0x73: set(operation, system_op(raw), rd, rs1, 0, (int32_t)bits(raw, 20, 12)); return;
    default: set(operation, RISCV_OP_ILLEGAL, 0, 0, 0, 0); return;
    }
}

/* --- compressed instructions, by quadrant; chapter "C" of the unprivileged specification --- */

static uint32_t near_register(uint32_t raw, unsigned from)
{
    return 8 + bits(raw, from, 3);
}

static int32_t c_imm6(uint32_t raw)
{
    return sign_extend(bits(raw, 12, 1) << 5 | bits(raw, 2, 5), 6);
}

static int32_t c_word_offset(uint32_t raw)
{
    return (int32_t)(bits(raw, 10, 3) << 3 | bits(raw, 6, 1) << 2 | bits(raw, 5, 1) << 6);
}

static int32_t c_double_offset(uint32_t raw)
{
    return (int32_t)(bits(raw, 10, 3) << 3 | bits(raw, 5, 2) << 6);
}

static int32_t c_jump_offset(uint32_t raw)
{
    uint32_t value = bits(raw, 12, 1) << 11 | bits(raw, 11, 1) << 4 | bits(raw, 9, 2) << 8 | bits(raw, 8, 1) << 10 |
                     bits(raw, 7, 1) << 6 | bits(raw, 6, 1) << 7 | bits(raw, 3, 3) << 1 | bits(raw, 2, 1) << 5;
    return sign_extend(value, 12);
}

static int32_t c_branch_offset(uint32_t raw)
{
    uint32_t value = bits(raw, 12, 1) << 8 | bits(raw, 10, 2) << 3 | bits(raw, 5, 2) << 6 | bits(raw, 3, 2) << 1 |
                     bits(raw, 2, 1) << 5;
    return sign_extend(value, 9);
}

static void decode_quadrant_0(uint32_t raw, riscv_operation *operation)
{
    uint32_t low = near_register(raw, 2), high = near_register(raw, 7);
    int32_t stack_offset =
        (int32_t)(bits(raw, 11, 2) << 4 | bits(raw, 7, 4) << 6 | bits(raw, 6, 1) << 2 | bits(raw, 5, 1) << 3);
    switch (bits(raw, 13, 3)) {
    case 0: set(operation, stack_offset != 0 ? RISCV_OP_ADDI : RISCV_OP_ILLEGAL, low, 2, 0, stack_offset); return;
    case 2: set(operation, RISCV_OP_LW, low, high, 0, c_word_offset(raw)); return;
    case 3: set(operation, RISCV_OP_LD, low, high, 0, c_double_offset(raw)); return;
    case 6: set(operation, RISCV_OP_SW, 0, high, low, c_word_offset(raw)); return;
    case 7: set(operation, RISCV_OP_SD, 0, high, low, c_double_offset(raw)); return;
    default: set(operation, RISCV_OP_ILLEGAL, 0, 0, 0, 0); return;
    }
}

static void decode_c_lui(uint32_t raw, riscv_operation *operation)
{
    uint32_t rd = bits(raw, 7, 5);
    if (rd == 2) {
        int32_t imm = sign_extend(bits(raw, 12, 1) << 9 | bits(raw, 6, 1) << 4 | bits(raw, 5, 1) << 6 |
                                      bits(raw, 3, 2) << 7 | bits(raw, 2, 1) << 5, 10);
        set(operation, imm != 0 ? RISCV_OP_ADDI : RISCV_OP_ILLEGAL, 2, 2, 0, imm);
        return;
    }
    int32_t imm = c_imm6(raw);
    set(operation, imm != 0 ? RISCV_OP_LUI : RISCV_OP_ILLEGAL, rd, 0, 0, (int32_t)((uint32_t)imm << 12));
}

static void decode_c_arithmetic(uint32_t raw, riscv_operation *operation)
{
    static const uint8_t ops[8] = {RISCV_OP_SUB,  RISCV_OP_XOR,  RISCV_OP_OR,      RISCV_OP_AND,
                                   RISCV_OP_SUBW, RISCV_OP_ADDW, RISCV_OP_ILLEGAL, RISCV_OP_ILLEGAL};
    uint32_t rd = near_register(raw, 7);
    int32_t shift = (int32_t)(bits(raw, 12, 1) << 5 | bits(raw, 2, 5));
    switch (bits(raw, 10, 2)) {
    case 0: set(operation, RISCV_OP_SRLI, rd, rd, 0, shift); return;
    case 1: set(operation, RISCV_OP_SRAI, rd, rd, 0, shift); return;
    case 2: set(operation, RISCV_OP_ANDI, rd, rd, 0, c_imm6(raw)); return;
    default: set(operation, ops[bits(raw, 12, 1) << 2 | bits(raw, 5, 2)], rd, rd, near_register(raw, 2), 0); return;
    }
}

static void decode_quadrant_1(uint32_t raw, riscv_operation *operation)
{
    uint32_t rd = bits(raw, 7, 5), tested = near_register(raw, 7);
    switch (bits(raw, 13, 3)) {
    case 0: set(operation, RISCV_OP_ADDI, rd, rd, 0, c_imm6(raw)); return;
    case 1: set(operation, rd != 0 ? RISCV_OP_ADDIW : RISCV_OP_ILLEGAL, rd, rd, 0, c_imm6(raw)); return;
    case 2: set(operation, RISCV_OP_ADDI, rd, 0, 0, c_imm6(raw)); return;
    case 3: decode_c_lui(raw, operation); return;
    case 4: decode_c_arithmetic(raw, operation); return;
    case 5: set(operation, RISCV_OP_JAL, 0, 0, 0, c_jump_offset(raw)); return;
    case 6: set(operation, RISCV_OP_BEQ, 0, tested, 0, c_branch_offset(raw)); return;
    default: set(operation, RISCV_OP_BNE, 0, tested, 0, c_branch_offset(raw)); return;
    }
}

static void decode_c_jump_or_move(uint32_t raw, riscv_operation *operation)
{
    uint32_t rd = bits(raw, 7, 5), rs2 = bits(raw, 2, 5);
    bool is_linked = bits(raw, 12, 1) != 0;
    if (rs2 != 0)
        set(operation, RISCV_OP_ADD, rd, is_linked ? rd : 0, rs2, 0);
    else if (rd != 0)
        set(operation, RISCV_OP_JALR, is_linked ? 1 : 0, rd, 0, 0);
    else
        set(operation, is_linked ? RISCV_OP_EBREAK : RISCV_OP_ILLEGAL, 0, 0, 0, 0);
}

static void decode_quadrant_2(uint32_t raw, riscv_operation *operation)
{
    uint32_t rd = bits(raw, 7, 5), rs2 = bits(raw, 2, 5);
    int32_t shift = (int32_t)(bits(raw, 12, 1) << 5 | bits(raw, 2, 5));
    int32_t word = (int32_t)(bits(raw, 12, 1) << 5 | bits(raw, 4, 3) << 2 | bits(raw, 2, 2) << 6);
    int32_t twice = (int32_t)(bits(raw, 12, 1) << 5 | bits(raw, 5, 2) << 3 | bits(raw, 2, 3) << 6);
    switch (bits(raw, 13, 3)) {
    case 0: set(operation, RISCV_OP_SLLI, rd, rd, 0, shift); return;
    case 2: set(operation, rd != 0 ? RISCV_OP_LW : RISCV_OP_ILLEGAL, rd, 2, 0, word); return;
    case 3: set(operation, rd != 0 ? RISCV_OP_LD : RISCV_OP_ILLEGAL, rd, 2, 0, twice); return;
    case 4: decode_c_jump_or_move(raw, operation); return;
    case 6: set(operation, RISCV_OP_SW, 0, 2, rs2, (int32_t)(bits(raw, 9, 4) << 2 | bits(raw, 7, 2) << 6)); return;
    case 7: set(operation, RISCV_OP_SD, 0, 2, rs2, (int32_t)(bits(raw, 10, 3) << 3 | bits(raw, 7, 3) << 6)); return;
    default: set(operation, RISCV_OP_ILLEGAL, 0, 0, 0, 0); return;
    }
}

unsigned riscv_decode(uint32_t raw, riscv_operation *operation)
{
    switch (raw & 3) {
    case 0: decode_quadrant_0(raw, operation); return 2;
    case 1: decode_quadrant_1(raw, operation); return 2;
    case 2: decode_quadrant_2(raw, operation); return 2;
    default: decode_full(raw, operation); return 4;
    }
}
