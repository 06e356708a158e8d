"""Adapters for what ftvm can protect: riscv (built in, deterministic), qemu, kvm (our monitor); and their networks."""
