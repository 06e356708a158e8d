"""A guest with several cards that are pumped: each is QEMU's own, with its address, and is closed with the guest."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("qemu.qmp")

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
    assert list(guest.cards) == ["card0", "card1"]
    assert guest.failure() is None
    guest.close()
    assert [card.tap for card in cards] == [-1, -1]


def test_a_machine_is_given_a_card_for_each_address(cards: list[PumpedCard]) -> None:
    with pytest.raises(ConfigError, match="pumped cards of the machine: 2; given to the guest: 1"):
        QemuGuest(MACHINE, boots=True, cards=cards[:1])
