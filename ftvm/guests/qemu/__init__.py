"""A stock QEMU as a guest: its memory shared with us, its devices saved over QMP, its outputs held until committed."""

from ftvm.guests.qemu.guest import QemuGuest
from ftvm.guests.qemu.machine import QemuMachine

__all__ = ["QemuGuest", "QemuMachine"]
