"""Which machines there can be: all that would let a guest reach the outside past ftvm is refused before QEMU starts."""

import pytest

pytest.importorskip("qemu.qmp")

from ftvm.errors import ConfigError
from ftvm.guests.qemu import QemuMachine
from ftvm.guests.qemu.machine import Wires

MIB = 1 << 20


@pytest.mark.parametrize(
    "words",
    [
        ("-incoming", "defer"),
        ("-S",),
        ("-daemonize",),
        ("-snapshot",),
        ("-loadvm", "x"),
        ("-qmp", "stdio"),
        ("-monitor", "stdio"),
        ("-gdb", "tcp::1234"),
        ("-readconfig", "x"),
        ("-m", "4G"),
    ],
)
@pytest.mark.parametrize("dash", ["", "-"])
def test_what_is_ftvms_to_give_is_refused_with_one_dash_or_two(words: tuple[str, ...], dash: str) -> None:
    with pytest.raises(ConfigError, match=f"QEMU argument {dash}{words[0]} is ftvm's to give: "):
        QemuMachine(memory_bytes=MIB, arguments=(dash + words[0], *words[1:]))


@pytest.mark.parametrize(
    "words",
    [
        ("-netdev", "user,id=n"),
        ("-nic", "user"),
        ("-net", "user"),
        ("-drive", "file=x,if=virtio"),
        ("-hda", "x"),
        ("-blockdev", "file,filename=x,node-name=y"),
        ("-virtfs", "local,path=/,mount_tag=x,security_model=none"),
        ("-serial", "stdio"),
        ("-chardev", "file,id=c,path=x"),
        ("--serial", "file:x"),
        ("-serial",),
    ],
)
def test_a_way_to_the_outside_that_is_not_held_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"not held|neither replicated nor held|use mac"):
        QemuMachine(memory_bytes=MIB, arguments=words)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("vhost-user-fs-pci,chardev=c,tag=t", "another process writes"),
        ("vhost-vsock-pci,guest-cid=3", "another process writes"),
        ("vfio-pci,host=01:00.0", "a real device"),
        ("virtio-balloon-pci", "change without being written"),
    ],
)
def test_devices_that_write_to_memory_unseen_are_refused(word: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be protected: .*{reason}"):
        QemuMachine(memory_bytes=MIB, arguments=("-device", word))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-kernel", "vmlinuz", "-append", "console=ttyS0 root=/dev/vda"),
        ("-cdrom", "install.iso"),
        ("-drive", "file=x,if=virtio,readonly=on"),
        ("-drive", "file=install.iso,media=cdrom"),
        ("-monitor", "none"),
        ("-serial", "none"),
        ("-chardev", "null,id=c"),
        ("-device", "virtio-rng-pci"),
    ],
)
def test_what_only_reads_or_leads_nowhere_is_the_users(words: tuple[str, ...]) -> None:
    assert QemuMachine(memory_bytes=MIB, arguments=words).arguments == words


def test_the_disk_offers_nothing_that_asks_for_much_in_few_bytes_and_a_host_that_differs_in_it_is_told() -> None:
    """A state that was saved of a disk with discard does not load on one without: the two must not become a pair."""
    with_disk, without = QemuMachine(memory_bytes=MIB, disk_bytes=4096), QemuMachine(memory_bytes=MIB)
    wires = Wires(ram=3, state=4, monitor=5, console=6, network=7, disk=8)

    card = next(word for word in with_disk.command(wires, boots=True) if word.startswith("virtio-blk-pci,"))

    assert {"write-zeroes=off", "discard=off"} <= set(card.split(","))
    assert "write-zeroes=off,discard=off" in with_disk.identity("7.2", "pc")
    assert "write-zeroes" not in without.identity("7.2", "pc")
