"""What a guest file says of a guest of each kind: its machine, disks and cards, and what cannot be."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ftvm.checkpoint import Output
from ftvm.cli.hostparts import macs, world_of
from ftvm.engines.names import engines_for
from ftvm.engines.remus import Remus
from ftvm.guests.datagram import announcement_frames, mac_bytes
from ftvm.interfaces import Guest

from ..guests.kvm.baresystem import kernel
from .guestfiles import QEMU_WITH, SOUND, complaints, settings, write


def test_a_kind_that_there_is_not_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    told = settings(write(tmp_path, 'kind = "xen"\ntracker = "auto"\ntraker = "auto"\n' + SOUND))

    assert set(told.problems) == {"kind", "traker"}
    assert str(told.problems["kind"]) == "'xen': write one of riscv, qemu, kvm, vmm"


def test_a_setting_of_another_kind_is_told_as_such(tmp_path: Path) -> None:
    told = settings(write(tmp_path, SOUND + 'arguments = ["-cpu", "max"]\n'), qemu="q")

    assert complaints(told) == [
        f"{tmp_path}/vm1.toml:6: arguments: only a guest of kind qemu has it; this one is riscv",
        "--qemu: only a guest of kind qemu has it; this one is riscv",
    ]


def test_a_guest_on_the_processor_is_described_whole_in_a_file(tmp_path: Path) -> None:
    text = SOUND.replace(
        'program = "hello"\n', 'kind = "kvm"\nprogram = "work"\nentropy = false\ntracker = "compare"\n'
    )
    path = write(tmp_path, text)

    told = settings(path)

    assert told.problems == {}
    assert (told.kind.name, told["program"], told["tracker"]) == ("kvm", "work", "compare")
    assert set(engines_for(told.kind.can, Remus(interval=0.025))) == {"remus", "kemari"}


def test_what_a_machine_under_kvm_cannot_be_is_told(tmp_path: Path) -> None:
    text = SOUND.replace('program = "hello"\n', 'kind = "kvm"\n').replace("8M", "4G") + 'engine = "hybrid"\n'

    told = settings(write(tmp_path, text))

    assert "at most 3 GiB" in str(told.problems["memory"])
    assert "program kv needs a network card" in str(told.problems["nic"])
    assert "hybrid does not work with a kvm guest; choose one of: remus, kemari" in str(told.problems["engine"])


def test_a_system_under_kvm_is_described_whole_and_a_standby_needs_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel(b"", needs=1 << 20))
    described = 'kind = "kvm"\nprocessors = 2\n'
    whole = described + 'kernel = "vmlinuz"\nappend = "console=ttyS0 quiet"\n'

    told = settings(write(tmp_path, SOUND.replace('program = "hello"\n', whole)))
    standby = settings(write(tmp_path, SOUND.replace('program = "hello"\n', described)), boots=False)

    assert told.problems == standby.problems == {}
    assert (told["processors"], told["kernel"]) == (2, str(tmp_path / "vmlinuz"))


@pytest.mark.parametrize(
    ("described", "setting", "reason"),
    [
        ("processors = 1\n", "processors", "give its kernel, too"),
        ("processors = 5\n", "processors", "1 to 4 processors, not 5"),
        ("processors = 1.5\n", "processors", "a whole number"),
        ('kernel = "vmlinuz"\n', "kernel", "needs processors"),
        ('program = "work"\nramdisk = "large"\n', "ramdisk", "is for a system: give its kernel, too"),
        ('processors = 1\nkernel = "notes"\n', "kernel", "no Linux kernel for x86"),
        ('processors = 1\nkernel = "gone"\n', "kernel", "gone cannot be read"),
        ('processors = 1\nkernel = "vmlinuz"\nramdisk = "large"\n', "kernel", "need more memory: at least 10 MiB"),
    ],
)
def test_a_system_under_kvm_that_cannot_boot_is_told(tmp_path: Path, described: str, setting: str, reason: str) -> None:
    (tmp_path / "vmlinuz").write_bytes(kernel(b"", needs=1 << 20))
    (tmp_path / "notes").write_text("no kernel")
    (tmp_path / "large").write_bytes(bytes(8 << 20))

    told = settings(write(tmp_path, SOUND.replace('program = "hello"\n', 'kind = "kvm"\n' + described)))

    assert reason in str(told.problems[setting])


def test_a_qemu_is_described_whole_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    text = SOUND.replace('program = "hello"\n', 'kind = "qemu"\ndisk = "disk.img"\n')
    path = write(tmp_path, text + 'arguments = ["-kernel", "vmlinuz"]\n')

    told, overridden = settings(path), settings(path, arguments=["-cpu", "max"])

    assert told.problems == {}
    assert (told.kind.name, told["arguments"]) == ("qemu", ["-kernel", "vmlinuz"])
    assert told.folder == tmp_path, "which is where vmlinuz is looked for"
    assert (told.kind.memory_bytes(told), told.kind.shadow_bytes(told)) == (8 << 20, (8 << 20) + 4096)
    assert (overridden["arguments"], overridden.folder) == (["-cpu", "max"], None)


@pytest.mark.parametrize("written", ['"a.img"', '["a.img"]', '["a.img", "b.img"]'])
def test_a_qemu_has_one_disk_or_several_in_their_order(tmp_path: Path, written: str) -> None:
    for name in ("a.img", "b.img"):
        (tmp_path / name).write_bytes(bytes(4096))

    told = settings(write(tmp_path, SOUND.replace('program = "hello"', 'kind = "qemu"') + f"disk = {written}\n"))

    assert told.problems == {}
    assert told["disk"] == [str(tmp_path / name) for name in ("a.img", "b.img") if name in written]


class HeardCard:
    """A card that keeps what is sent in the guest's place, and which outputs left by it."""

    def __init__(self) -> None:
        self.said: list[bytes] = []
        self.released: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.said.append(frame)

    def release(self, payload: bytes) -> None:
        self.released.append(payload)


def test_each_card_of_a_guest_is_announced_with_its_own_address_and_lets_its_own_outputs_out(tmp_path: Path) -> None:
    told = settings(write(tmp_path, QEMU_WITH + 'nic = ["pump:vm2", "pump:vm3"]\n'))
    cards = {"card0": HeardCard(), "card1": HeardCard()}

    world = world_of(told, cast("Guest", SimpleNamespace(cards=cards)))
    world.announce()
    world.release(Output(number=1, channel="card1", payload=b"of the second"))

    for card, mac in zip(cards.values(), macs(told), strict=True):
        assert card.said == list(announcement_frames(mac_bytes(mac)))
    assert [card.released for card in cards.values()] == [[], [b"of the second"]]


@pytest.mark.parametrize("written", ['"pump:vm2"', '["pump:vm2"]', '["pump:vm2", "pump:vm3"]', '"tap:vm2"'])
def test_a_qemu_has_one_card_or_several_that_are_pumped_in_their_order(tmp_path: Path, written: str) -> None:
    told = settings(write(tmp_path, QEMU_WITH + f"nic = {written}\n"))

    assert told.problems == {}
    assert told["nic"] == [name for name in ("pump:vm2", "pump:vm3", "tap:vm2") if name in written]


@pytest.mark.parametrize(
    ("written", "addresses"),
    [
        ("", ("52:54:00:12:34:56", "52:54:00:12:34:57")),
        ('mac = "52:54:00:00:00:ff"', ("52:54:00:00:00:ff", "52:54:00:00:01:00")),
        ('mac = "52:54:00:ff:ff:ff"', ("52:54:00:ff:ff:ff", "52:54:00:00:00:00")),
        ('mac = ["52:54:00:00:00:07", "02:00:00:00:00:01"]', ("52:54:00:00:00:07", "02:00:00:00:00:01")),
    ],
)
def test_cards_without_an_address_count_on_from_the_last(
    tmp_path: Path, written: str, addresses: tuple[str, str]
) -> None:
    told = settings(write(tmp_path, QEMU_WITH + f'nic = ["pump:vm2", "pump:vm3"]\n{written}\n'))

    assert told.problems == {}
    assert macs(told) == addresses


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ('nic = ["pump:vm2", "tap:vm3"]', "nic: 2 cards: where there are several, each must be pumped (pump:NAME)"),
        (
            'nic = ["pump:vm2", "pump:tap:vm3"]',
            "nic: pump:NAME beside pumps of other kinds: all cards of a guest offload",
        ),
        ('nic = ["pump:udp:1:2", "pump:unix:a"]', "nic: 'unix:a' is not a cable: write udp:LOCALPORT:REMOTEPORT"),
        ('nic = ["pump:vm2", "pump:vm2"]', "nic: pump:vm2 is there 2 times: each card needs its own interface"),
        ('nic = ["pump:vm2", "pump:sixteen-letters-"]', "nic: 'sixteen-letters-' is not the name of an interface"),
        (f"nic = {[f'pump:vm{number}' for number in range(9)]}", "nic: 9 cards: a guest has at most 8"),
        (
            'nic = ["pump:vm2", "pump:vm3"]\nmac = ["02:00:00:00:00:01", "02:00:00:00:00:01"]',
            "nic: two cards have one address (02:00:00:00:00:01, 02:00:00:00:00:01): give each its own",
        ),
        (
            'nic = "pump:vm2"\nmac = ["02:00:00:00:00:01", "02:00:00:00:00:02"]',
            "mac: more addresses (2) than cards (1, see nic)",
        ),
        ('mac = ["02:00:00:00:00:01"]', "mac: 02:00:00:00:00:01 needs nic"),
    ],
)
def test_cards_that_cannot_be_are_told(tmp_path: Path, written: str, complaint: str) -> None:
    told = complaints(settings(write(tmp_path, QEMU_WITH + written + "\n")))

    assert len(told) == 1
    assert complaint in told[0]


def test_a_disk_is_given_once_to_a_machine_that_has_one(tmp_path: Path) -> None:
    for name in ("a.img", "b.img"):
        (tmp_path / name).write_bytes(bytes(4096))
    images = [str(tmp_path / name) for name in ("a.img", "b.img")]
    path = write(tmp_path, SOUND)

    assert settings(path, disk=images[:1])["disk"] == images[0]
    assert "write a string in quotes" in complaints(settings(path, disk=images))[0]
    assert settings(path, disk=images, kind="qemu", program=None).values["disk"] == images


def test_an_engine_that_a_qemu_cannot_have_is_told_with_those_that_it_can(tmp_path: Path) -> None:
    path = write(tmp_path, SOUND.replace('program = "hello"', 'kind = "qemu"\nengine = "lockstep"'))

    told = settings(path)

    assert str(told.problems["engine"]) == "lockstep does not work with a qemu guest; choose one of: remus, kemari"
