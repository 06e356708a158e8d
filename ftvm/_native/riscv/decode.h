/* decode: from the bits of an instruction to an operation with its operands. Pure.
 *
 * Compressed instructions become the operation that they abbreviate, so the interpreter knows one set of operations. */
#ifndef FTVM_RISCV_DECODE_H
#define FTVM_RISCV_DECODE_H

#include <stdint.h>

/* Every operation, in no particular order. The *_NEAR ones, BREAK, PAGE_END, STRADDLE and UNDECODED exist only in the
 * cache of decoded code: see code.h. */
#define RISCV_OPERATIONS(X)                                                                                           \
    X(ILLEGAL) X(UNDECODED) X(STRADDLE) X(PAGE_END) X(BREAK)                                                          \
    X(LUI) X(AUIPC) X(JAL) X(JAL_NEAR) X(JALR)                                                                        \
    X(BEQ) X(BNE) X(BLT) X(BGE) X(BLTU) X(BGEU)                                                                       \
    X(BEQ_NEAR) X(BNE_NEAR) X(BLT_NEAR) X(BGE_NEAR) X(BLTU_NEAR) X(BGEU_NEAR)                                         \
    X(LB) X(LH) X(LW) X(LD) X(LBU) X(LHU) X(LWU) X(SB) X(SH) X(SW) X(SD)                                              \
    X(ADDI) X(SLTI) X(SLTIU) X(XORI) X(ORI) X(ANDI) X(SLLI) X(SRLI) X(SRAI)                                           \
    X(ADD) X(SUB) X(SLL) X(SLT) X(SLTU) X(XOR) X(SRL) X(SRA) X(OR) X(AND)                                             \
    X(ADDIW) X(SLLIW) X(SRLIW) X(SRAIW) X(ADDW) X(SUBW) X(SLLW) X(SRLW) X(SRAW)                                       \
    X(MUL) X(MULH) X(MULHSU) X(MULHU) X(DIV) X(DIVU) X(REM) X(REMU)                                                   \
    X(MULW) X(DIVW) X(DIVUW) X(REMW) X(REMUW)                                                                         \
    X(LR_W) X(SC_W) X(AMOSWAP_W) X(AMOADD_W) X(AMOXOR_W) X(AMOAND_W) X(AMOOR_W)                                       \
    X(AMOMIN_W) X(AMOMAX_W) X(AMOMINU_W) X(AMOMAXU_W)                                                                 \
    X(LR_D) X(SC_D) X(AMOSWAP_D) X(AMOADD_D) X(AMOXOR_D) X(AMOAND_D) X(AMOOR_D)                                       \
    X(AMOMIN_D) X(AMOMAX_D) X(AMOMINU_D) X(AMOMAXU_D)                                                                 \
    X(FENCE) X(ECALL) X(EBREAK) X(MRET) X(WFI) X(CSRRW) X(CSRRS) X(CSRRC) X(CSRRWI) X(CSRRSI) X(CSRRCI)

enum {
#define X(name) RISCV_OP_##name,
    RISCV_OPERATIONS(X)
#undef X
        RISCV_OP_COUNT
};

typedef struct {
    const void *handler; /* the cache's: where the interpreter goes on */
    int32_t imm;         /* sign-extended; csr number for the CSR operations; distance in half-words for *_NEAR */
    uint8_t op;
    uint8_t rd;  /* 32 where the instruction names x0: see RISCV_X_DISCARD */
    uint8_t rs1; /* the immediate, for CSRRWI, CSRRSI and CSRRCI */
    uint8_t rs2;
} riscv_operation;

/* Decodes `raw`, of which only the low half counts if it is compressed. Returns its length: 2 or 4 bytes. What is no
 * instruction of RV64IMAC_Zicsr_Zifencei, nor MRET or WFI, becomes ILLEGAL. */
unsigned riscv_decode(uint32_t raw, riscv_operation *operation);

#endif
