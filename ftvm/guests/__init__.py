"""Adapters for what ftvm can protect: riscv (built in), qemu, kvm (our monitor), vmm (any monitor); and networks."""
