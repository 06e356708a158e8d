"""A host that comes back with its disk's image is sent what was written since, not the disk."""

import random
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ftvm._native.memory import DigestTable, NativeMemory
from ftvm.capture.pages import Shadow
from ftvm.checkpoint import Buffer
from ftvm.encode.apply import CommittedMemory
from ftvm.events import CopyProgress, PeerMisbehaved, RoleChanged
from ftvm.guests.disk.kept import KeptDisk
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.interfaces import Lane
from ftvm.protocol.view import Role
from ftvm.testing.pair import Pair, SteppedHost
from ftvm.transport.memory import MemoryTransport
from ftvm.units import PAGE_BYTES

from ..guests.disk.learning import rest

DISK_PAGES = 512
RAM_PAGES = 256
WRITTEN_PAGES = 100


class Machines:
    """A pair of built-in machines, each with its own image; that of `a` is full. Who comes back finds its own."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.images = {name: folder / f"{name}.img" for name in "ab"}
        self.images["a"].write_bytes(content)
        with self.images["b"].open("wb") as file:
            file.truncate(len(content))
        self._booting = ["a", "b"]
        self.pair = Pair(guest=self._make)

    def _make(self, boots: bool) -> RiscvGuest:
        return RiscvGuest(
            read_program("ticks") if boots else None,
            memory_bytes=RAM_PAGES * PAGE_BYTES,
            disk=str(self.images[self._booting.pop(0)]),
            command_line="ms=5 beats=0",
        )

    def kill(self, host: SteppedHost) -> None:
        """Have a host die with its image as of the last checkpoint."""
        disk_of(host).image.sync()
        self.pair.kill(host)

    def come_back(self, name: str, peer: str) -> SteppedHost:
        self._booting.append(name)
        return self.pair.boot(name, peer)


def disk_of(host: SteppedHost) -> KeptDisk:
    store = host.guest.memory[1].store
    assert isinstance(store, KeptDisk)
    return store


def pages_sent(host: SteppedHost) -> int:
    return host.told(CopyProgress)[-1].pages_sent


@pytest.fixture
def content() -> bytes:
    return random.Random(1).randbytes(DISK_PAGES * PAGE_BYTES)


@pytest.fixture
def machines(tmp_path: Path, content: bytes) -> Iterator[Machines]:
    made = Machines(tmp_path, content)
    yield made
    for host in (*made.pair.alive,):
        made.pair.kill(host)


class ReadPages:
    """How many pages of the disk an active has read to compare them with what a joiner has."""

    def __init__(self, patched: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._match = Shadow.match
        patched.setattr(Shadow, "match", lambda *told: self._note(*told))

    def _note(
        self, shadow: Shadow, memory: NativeMemory, first: int, digests: Buffer, known: DigestTable | None
    ) -> bytearray:
        pages = range(first, first + len(digests) // 16)
        self.count += sum(
            page >= RAM_PAGES and (known is None or known.pages(page, 1) == b"\xff" * 16) for page in pages
        )
        return self._match(shadow, memory, first, digests, known)


@pytest.mark.parametrize("lost", ["standby", "active"])
def test_the_host_where_the_guest_runs_reads_of_its_disk_what_was_written_since(
    machines: Machines, lost: str, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = machines.pair.protected()
    stays, goes = (pair.a, pair.b) if lost == "standby" else (pair.b, pair.a)
    machines.kill(goes)
    pair.until(lambda: stays.role is Role.ACTIVE and pair.record().standby is None)
    for page in (0, 7, DISK_PAGES - 1):
        disk_of(stays).memory.write(page * PAGE_BYTES, b"new")
    read = ReadPages(monkeypatch)

    back = machines.come_back(goes.name, stays.name)
    pair.until(lambda: pair.record().standby == back.id)
    disk_of(back).image.sync()

    assert read.count == 3
    changed = bytearray(content)
    for page in (0, 7, DISK_PAGES - 1):
        changed[page * PAGE_BYTES : page * PAGE_BYTES + 3] = b"new"
    assert machines.images[back.name].read_bytes() == changed
    assert not back.told(PeerMisbehaved)


def test_a_standby_that_starts_again_reads_of_its_disk_what_it_does_not_know(
    machines: Machines, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = machines.pair.protected()
    disk_of(pair.b).image.sync()
    rest(disk_of(pair.b).image)
    machines.kill(pair.b)
    pair.until(lambda: pair.a.role is Role.ACTIVE and pair.record().standby is None)
    disk_of(pair.a).memory.write(7 * PAGE_BYTES, b"new")
    read: list[int] = []
    look = CommittedMemory.look

    def note(memory: CommittedMemory, pages: "array[int]") -> None:
        read.extend(page for page in pages if page >= RAM_PAGES)
        look(memory, pages)

    monkeypatch.setattr(CommittedMemory, "look", note)

    back = machines.come_back("b", "a")
    pair.until(lambda: pair.record().standby == back.id)
    disk_of(back).image.sync()

    assert read == [RAM_PAGES + 7]
    assert machines.images["b"].read_bytes() == content[: 7 * PAGE_BYTES] + b"new" + content[7 * PAGE_BYTES + 3 :]
    assert not back.told(PeerMisbehaved)


@pytest.mark.parametrize("lost", ["standby", "active"])
def test_a_host_that_comes_back_with_its_image_is_not_sent_what_it_has(
    machines: Machines, lost: str, content: bytes
) -> None:
    pair = machines.pair.protected()
    stays, goes = (pair.a, pair.b) if lost == "standby" else (pair.b, pair.a)
    first_copy = pages_sent(pair.a)
    machines.kill(goes)
    pair.until(lambda: stays.role is Role.ACTIVE and pair.record().standby is None)

    back = machines.come_back(goes.name, stays.name)
    pair.until(lambda: pair.record().standby == back.id)
    disk_of(back).image.sync()

    assert first_copy >= DISK_PAGES
    assert pages_sent(stays) <= RAM_PAGES
    assert f"; {DISK_PAGES} pages of it were here" in back.told(RoleChanged)[-1].reason
    assert machines.images[back.name].read_bytes() == content
    assert not back.told(PeerMisbehaved)


def test_a_rejoin_takes_little_more_than_was_written_since(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The goal is 1.2 times; a digest is 16 bytes of 4,096. Both ways of the link count, the RAM beside."""
    pair = machines.pair.protected()
    machines.kill(pair.b)
    pair.until(lambda: pair.a.role is Role.ACTIVE and pair.record().standby is None)
    sent: list[int] = []
    send = MemoryTransport.send

    def count(host: MemoryTransport, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        sent.append(sum(memoryview(frame).nbytes for frame in frames))
        return send(host, peer, lane, frames, token)

    written = random.Random(2).randbytes(WRITTEN_PAGES * PAGE_BYTES)
    for page in range(WRITTEN_PAGES):
        place = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
        disk_of(pair.a).memory.write(5 * place.start, written[place])
    monkeypatch.setattr(MemoryTransport, "send", count)

    back = machines.come_back("b", "a")
    pair.until(lambda: pair.record().standby == back.id)

    ram_bytes = sum(any(pair.a.guest.memory[0].buffer[n * PAGE_BYTES :][:PAGE_BYTES]) for n in range(RAM_PAGES))
    assert sum(sent) - ram_bytes * PAGE_BYTES <= 1.2 * len(written)


def test_a_host_that_lost_the_guest_while_it_lived_keeps_its_disk_too(machines: Machines, content: bytes) -> None:
    pair = machines.pair.protected()
    pair.cut_off("a")
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    disk_of(pair.b).memory.write(0, b"new")
    pair.run(50)

    pair.heal()
    pair.until(lambda: pair.a.role is Role.STANDBY and pair.record().standby == pair.a.id)
    disk_of(pair.a).image.sync()

    assert pages_sent(pair.b) <= RAM_PAGES
    assert machines.images["a"].read_bytes() == b"new" + content[3:]
