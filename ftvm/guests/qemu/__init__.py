"""A stock QEMU as a guest."""
