"""What a machine is to QEMU, and to the other host."""

import pytest

pytest.importorskip("qemu.qmp")

from ftvm.errors import ConfigError
from ftvm.guests.qemu import QemuMachine
from ftvm.guests.qemu.machine import Wires

MIB = 1 << 20


def test_the_disk_offers_nothing_that_asks_for_much_in_few_bytes_and_a_host_that_differs_in_it_is_told() -> None:
    """A state that was saved of a disk with discard does not load on one without: the two must not become a pair."""
    with_disk, without = QemuMachine(memory_bytes=MIB, disk_bytes=4096), QemuMachine(memory_bytes=MIB)
    wires = Wires(ram=3, state=4, monitor=5, console=6, network=7, disk=8)

    card = next(word for word in with_disk.command(wires, boots=True) if word.startswith("virtio-blk-pci,"))

    assert {"write-zeroes=off", "discard=off", "queue-size=64"} <= set(card.split(","))
    assert "write-zeroes=off,discard=off" in with_disk.identity("7.2", "pc")
    assert "write-zeroes" not in without.identity("7.2", "pc")


def test_a_machine_with_arguments_that_cannot_be_protected_is_not_made() -> None:
    with pytest.raises(ConfigError, match="QEMU argument -spice port=1 cannot be protected"):
        QemuMachine(memory_bytes=MIB, arguments=("-spice", "port=1"))
