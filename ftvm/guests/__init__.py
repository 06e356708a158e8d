"""Adapters for what ftvm can protect: riscv (built in, deterministic), qemu; and their networks."""
