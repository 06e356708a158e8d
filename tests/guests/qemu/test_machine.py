"""What a machine is to QEMU, and to the other host."""

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.guests.qemu.machine import Wires

MIB = 1 << 20


def command_of(machine: QemuMachine) -> list[str]:
    disks = tuple(range(8, 8 + len(machine.disks)))
    cards = tuple(range(7, 7 - len(machine.macs), -1))
    return machine.command(Wires(ram=3, state=4, monitor=5, console=6, networks=cards, disks=disks), boots=True)


def test_a_disk_takes_no_more_at_once_than_a_stop_can_wait_for_and_a_host_that_differs_in_it_is_told() -> None:
    """A state that was saved of a disk with other features does not load: the two must not become a pair."""
    with_disk, without = QemuMachine(memory_bytes=MIB, disk_bytes=4096), QemuMachine(memory_bytes=MIB)

    card = next(word for word in command_of(with_disk) if word.startswith("virtio-blk-pci,"))

    limits = {"max-discard-sectors=2048", "max-write-zeroes-sectors=2048", "queue-size=64"}
    assert limits <= set(card.split(","))
    assert "max-discard-sectors=2048" in with_disk.identity("7.2", "pc")
    assert "max-discard" not in without.identity("7.2", "pc")


def test_each_of_several_disks_is_a_card_and_the_first_has_the_name_of_a_single_one() -> None:
    single, several = (QemuMachine(memory_bytes=MIB, disk_bytes=disks) for disks in (4096, (4096, 8192, 4096)))

    cards = [word.split(",")[1] for word in command_of(several) if word.startswith("virtio-blk-pci,")]
    wires = [word.split(",")[3] for word in command_of(several) if word.startswith("nbd,")]

    assert cards == ["drive=ftvm-disk", "drive=ftvm-disk1", "drive=ftvm-disk2"]
    assert wires == ["server.str=8", "server.str=9", "server.str=10"]
    assert any("drive=ftvm-disk," in word for word in command_of(single))


@pytest.mark.parametrize("disks", [-4096, 4097, (4096, 0), (4096,) * 17])
def test_disks_that_cannot_be_are_refused(disks: int | tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="disk"):
        QemuMachine(memory_bytes=MIB, disk_bytes=disks)


def test_a_card_that_is_pumped_is_a_tap_to_qemu_and_a_host_without_one_is_told() -> None:
    """Its state has other features: it does not load where the card is a socket of datagrams."""
    plain, pumped = (QemuMachine(memory_bytes=MIB, mac="52:54:00:77:00:02", is_pumped=is_so) for is_so in (False, True))

    netdevs = [word for machine in (plain, pumped) for word in command_of(machine) if word.endswith("=7")]

    assert netdevs == ["dgram,id=ftvm-net,local.type=fd,local.str=7", "tap,id=ftvm-net,fd=7"]
    assert plain.identity("7.2", "pc") != pumped.identity("7.2", "pc")


def test_hosts_whose_cards_are_pumped_by_one_alone_or_offload_at_one_alone_are_told() -> None:
    mac = "52:54:00:77:00:02"
    machines = [
        QemuMachine(memory_bytes=MIB, mac=mac),
        QemuMachine(memory_bytes=MIB, mac=mac, is_pumped=True, offloads=False),
        QemuMachine(memory_bytes=MIB, mac=mac, is_pumped=True),
    ]

    told = {machine.identity("7.2", "pc") for machine in machines}

    assert len(told) == len(machines)


def test_a_pumped_card_without_an_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs an address: mac"):
        QemuMachine(memory_bytes=MIB, is_pumped=True)


def test_each_of_several_cards_has_its_own_tap_and_address_and_the_first_the_name_of_a_single_one() -> None:
    macs = ("52:54:00:77:00:02", "52:54:00:77:00:03")
    single, several = (QemuMachine(memory_bytes=MIB, mac=given, is_pumped=True) for given in (macs[0], macs))

    netdevs = [word for word in command_of(several) if word.startswith("tap,")]
    cards = [word.split(",") for word in command_of(several) if word.startswith("virtio-net-pci,")]

    assert netdevs == ["tap,id=ftvm-net,fd=7", "tap,id=ftvm-net1,fd=6"]
    assert [(card[1], card[-1]) for card in cards] == [
        ("netdev=ftvm-net", f"mac={macs[0]}"),
        ("netdev=ftvm-net1", f"mac={macs[1]}"),
    ]
    assert command_of(single)[-1] == command_of(several)[-5], "a machine with one card is as it was"
    assert single.identity("7.2", "pc") != several.identity("7.2", "pc"), "so that the other host is told"


@pytest.mark.parametrize(
    ("macs", "is_pumped", "why"),
    [
        (("52:54:00:77:00:02", "52:54:00:77:00:03"), False, "2 cards: where there are several, each must be pumped"),
        (("52:54:00:77:00:0a", "52:54:00:77:00:0A"), True, "two cards have one address"),
        (tuple(f"52:54:00:77:00:{number:02}" for number in range(9)), True, "9 cards: a guest has at most 8"),
        (("52:54:00:77:00:02", "soft"), True, "'soft' is not a MAC address"),
        ((), True, "needs an address: mac"),
    ],
)
def test_cards_that_cannot_be_are_refused(macs: tuple[str, ...], is_pumped: bool, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        QemuMachine(memory_bytes=MIB, mac=macs, is_pumped=is_pumped)


def test_a_guest_is_given_a_card_if_and_only_if_the_machine_is_pumped() -> None:
    with pytest.raises(ConfigError, match="pumped cards of the machine: 1; given to the guest: 0"):
        QemuGuest(QemuMachine(memory_bytes=MIB, mac="52:54:00:77:00:02", is_pumped=True), boots=True)


def test_a_machine_with_arguments_that_cannot_be_protected_is_not_made() -> None:
    with pytest.raises(ConfigError, match="QEMU argument -spice port=1 cannot be protected"):
        QemuMachine(memory_bytes=MIB, arguments=("-spice", "port=1"))
