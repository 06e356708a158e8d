"""Our own monitor for guests that run on the processor, by Linux's KVM.

boot.py lays out memory for a program's start, machine.py is the C core's one wrapper, guest.py makes it a `Guest`. The
machine's thread, its devices and its state are C: see ftvm/_native/kvm.h.
"""

from ftvm.guests.kvm.guest import KvmGuest
from ftvm.guests.kvm.system import KvmSystem

__all__ = ["KvmGuest", "KvmSystem"]
