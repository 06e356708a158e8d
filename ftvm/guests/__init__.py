"""Hypervisors that ftvm can protect: riscv (built in, deterministic)."""
