"""Machines under KVM for tests; all of them skip, with the reason, where /dev/kvm makes none."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.kvm import KvmGuest
from ftvm.guests.kvm.machine import KvmMachine, KvmShape, check_device
from ftvm.guests.kvm.programs import read_program

WORK_BYTES = 4 << 20

MakeWork = Callable[[], KvmGuest]


def processors() -> set[int]:
    """Return the descriptors of all processors that KVM keeps for this process."""
    folder = Path("/proc/self/fd")
    return {int(name) for name in os.listdir(folder) if "kvm-vcpu" in os.path.realpath(folder / name)}


@pytest.fixture(scope="session", autouse=True)
def kvm() -> None:
    try:
        check_device()
    except ConfigError as wrong:
        pytest.skip(f"needs KVM: {wrong}")


@pytest.fixture
def make_machine() -> Iterator[Callable[[], KvmMachine]]:
    with ExitStack() as stack:

        def make() -> KvmMachine:
            machine = KvmMachine(KvmShape(ram_bytes=2 << 20, mac=b"\x52\x54\0\0\0\1", disk_bytes=8192))
            stack.callback(machine.close)
            return machine

        yield make


@pytest.fixture
def make_work() -> Iterator[Callable[[], KvmGuest]]:
    """Guests that run `work`; closed at the end."""
    with ExitStack() as stack:

        def make() -> KvmGuest:
            guest = KvmGuest(read_program("work"), memory_bytes=WORK_BYTES, mac=None)
            stack.callback(guest.close)
            return guest

        yield make
