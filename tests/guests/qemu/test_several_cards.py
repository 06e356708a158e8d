"""A guest with several cards that are pumped: each is QEMU's own, with its address, and is closed with the guest."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.cards import PumpedCard
from ftvm.guests.qemu import QemuGuest, QemuMachine
from ftvm.testing.transcript import Transcript

if shutil.which("qemu-system-x86_64") is None:
    pytest.skip("needs QEMU: apt install qemu-system-x86", allow_module_level=True)
if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
    pytest.skip("needs root, and /dev/net/tun", allow_module_level=True)

MACS = ("52:54:00:77:00:02", "52:54:00:77:00:03")
MACHINE = QemuMachine(memory_bytes=16 << 20, mac=MACS, is_pumped=True)


@pytest.fixture
def cards() -> Iterator[list[PumpedCard]]:
    made = [PumpedCard(f"fts{os.getpid()}x{number}") for number in range(len(MACS))]
    yield made
    for card in made:
        card.close()


def test_qemu_has_each_card_with_its_address_and_another_qemu_has_them_again(cards: list[PumpedCard]) -> None:
    guest = QemuGuest(MACHINE, boots=True, cards=cards)
    sink = Transcript()
    guest.attach(sink)
    before = guest.pid
    guest.resume()
    guest.pause()
    guest.load_devices(guest.save_devices())

    found: Any = guest.monitor.execute("query-rx-filter")

    assert guest.pid != before, "a state loads into a new one only"
    assert tuple(card["main-mac"] for card in found) == MACS
    command = Path(f"/proc/{guest.pid}/cmdline").read_text(encoding="ascii").split("\0")
    wires = [word.rpartition("=")[2] for word in command if word.startswith("tap,")]
    assert wires == [str(card.wire) for card in cards]
    assert list(guest.cards) == ["card0", "card1"]
    assert guest.failure() is None
    guest.close()
    assert [card.wire for card in cards] == [-1, -1]


def test_cards_of_datagrams_are_qemus_by_their_sockets(tmp_path: Path) -> None:
    cards = [PumpedCard(f"unix:{tmp_path}/{number}:{tmp_path}/far{number}") for number in range(len(MACS))]
    guest = QemuGuest(replace(MACHINE, offloads=False), boots=True, cards=cards)
    guest.attach(Transcript())
    guest.resume()
    guest.pause()

    found: Any = guest.monitor.execute("query-rx-filter")

    assert tuple(card["main-mac"] for card in found) == MACS
    command = Path(f"/proc/{guest.pid}/cmdline").read_text(encoding="ascii").split("\0")
    wires = [word.rpartition("=")[2] for word in command if word.startswith("dgram,")]
    assert wires == [str(card.wire) for card in cards]
    guest.close()


class Warned(Transcript):
    """Keeps what the operator is told, too."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, reason: str) -> None:
        self.warnings.append(reason)


def test_a_tap_that_vanishes_is_told_once_and_the_guest_goes_on_with_the_other(cards: list[PumpedCard]) -> None:
    guest, sink = QemuGuest(MACHINE, boots=True, cards=cards), Warned()
    guest.attach(sink)
    guest.resume()

    subprocess.run(["ip", "link", "del", cards[1].name], check=True)
    for _ in range(3_000):
        if cards[1].failure() is not None:
            break
        threading.Event().wait(0.01)

    assert guest.failure() is None
    assert guest.failure() is None
    assert [warning.partition(" is gone")[0] for warning in sink.warnings] == [f"the tap device {cards[1].name}"]
    assert cards[0].failure() is None
    guest.pause()
    guest.save_devices()
    guest.close()


def test_a_machine_is_given_a_card_for_each_address(cards: list[PumpedCard]) -> None:
    with pytest.raises(ConfigError, match="pumped cards of the machine: 2; given to the guest: 1"):
        QemuGuest(MACHINE, boots=True, cards=cards[:1])
