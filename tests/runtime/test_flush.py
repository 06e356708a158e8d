"""What a client saw acknowledged behind a flush is on the disk of whoever may go on: the standby, and who took over.

The files of the host that goes on are recorded, and the power fails there at any moment (testing/powercut.py), the
other host being dead by then. The guest of these tests is a clerk: it writes an entry to its disk, flushes, and tells.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

import pytest

from ftvm.checkpoint import Bitmap, Geometry, GuestPosition, LogRecord, Output, RegionShape
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.guests.disk.image import Image
from ftvm.guests.disk.kept import KeptDisk
from ftvm.guests.flagged import FlaggedMemory
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.programs import read_program
from ftvm.interfaces import Capability, Engine, OutputSink, Region
from ftvm.runtime.protection import _with_disks
from ftvm.testing import PowerCuts
from ftvm.testing.pair import Pair, SteppedHost
from ftvm.units import PAGE_BYTES

from ..protocol.harness import make_settings

PAGES = 16
DRAWS = 80


class Clerk:
    """A guest that does what a test has it do. Page 0 of its memory has the number of the last entry."""

    def __init__(self, image: Path, *, boots: bool) -> None:
        self.disk = KeptDisk(str(image), boots=boots)
        self.ram = FlaggedMemory(PAGE_BYTES)
        self.is_paused = True
        self._sink: OutputSink | None = None

    def enter(self, *, flushes: bool = True) -> None:
        """Write the next entry, and tell its number to the client."""
        number = self.ram.buffer[0] + 1
        self.disk.memory.write(number * PAGE_BYTES, bytes([number]) * PAGE_BYTES)
        if flushes:
            self.disk.note_flush()
        self.ram.write(0, bytes([number]))
        assert self._sink is not None
        self._sink.emit("net0", bytes([number]), self.position)

    @property
    def position(self) -> GuestPosition:
        return GuestPosition(self.ram.buffer[0], 0)

    def run_until(self, position: GuestPosition, limit: int | None = None) -> bool:
        """Do what the other clerk did: nobody gives it anything."""
        del limit
        while self.position < position:
            self.enter()
        return True

    def inject(self, record: LogRecord) -> None:
        raise AssertionError(f"nobody gives a clerk {record}")

    @property
    def memory(self) -> tuple[Region, ...]:
        disk = self.disk.memory
        return (
            Region(name="ram", buffer=self.ram.buffer, page_count=self.ram.page_count),
            Region(name="disk", buffer=disk.buffer, page_count=disk.page_count, store=self.disk),
        )

    @property
    def geometry(self) -> Geometry:
        shapes = (RegionShape(name=region.name, page_count=region.page_count) for region in self.memory)
        return Geometry(machine="clerk/1", regions=tuple(shapes))

    can: frozenset[Capability] = frozenset({Capability.REPLAY})

    def attach(self, sink: OutputSink) -> None:
        self._sink = sink

    def pause(self) -> None:
        self.is_paused = True

    def resume(self) -> None:
        self.is_paused = False

    def collect_dirty(self) -> Bitmap:
        return Bitmap((1, PAGES), (self.ram.take_dirty(), self.disk.take()))

    def restore_dirty(self, bitmap: Bitmap) -> None:
        self.ram.put_dirty(bitmap.words[0])
        self.disk.memory.put_dirty(bitmap.words[1])

    def save_devices(self) -> bytes:
        return b"clerk"

    def load_devices(self, devices: bytes) -> None:
        assert devices == b"clerk"

    def deliver(self, channel: str, payload: bytes) -> None:
        """It listens to nobody."""

    def failure(self) -> str | None:
        return None

    def close(self) -> None:
        self.disk.close()


class Office:
    """A pair of clerks. The files of one host are recorded; `promises` says which numbers are promised once one has
    left a host."""

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        *,
        recorded: str = "b",
        promises: Callable[[int], Sequence[int]] = lambda number: (number,),
    ) -> None:
        for name in "ab":
            (folder / name).mkdir()
            (folder / name / "disk").write_bytes(bytes(PAGES * PAGE_BYTES))
        self.cuts = PowerCuts(folder / recorded)
        self._booting = iter("ab")
        self._folder = folder
        self._engine = engine
        self._promises = promises
        self.told: list[int] = []

    def open(self) -> Pair:
        self.pair = Pair(guest=self._make, let_run=lambda _: None, on_output=self._tell, engine=self._engine)
        return self.pair

    def _make(self, boots: bool) -> Clerk:
        return Clerk(self._folder / next(self._booting) / "disk", boots=boots)

    def _tell(self, _host: SteppedHost, output: Output) -> None:
        (number,) = output.payload
        self.told.append(number)
        for promised in self._promises(number):
            self.cuts.mark(promised)

    def clerk(self, host: SteppedHost) -> Clerk:
        assert isinstance(host.guest, Clerk)
        return host.guest


def recover(folder: Path, marks: tuple[object, ...]) -> None:
    """Open the disk as whoever looks after a power cut does."""
    Image(folder / "disk").close()
    found = (folder / "disk").read_bytes()
    for number in marks:
        assert isinstance(number, int)
        assert found[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] == bytes([number]) * PAGE_BYTES, (
            f"entry {number}, which the client saw, is lost"
        )


@pytest.mark.parametrize("engine", [Remus(interval=0.02), Kemari(), Hybrid(), Lockstep()], ids=lambda each: each.name)
def test_an_entry_that_a_client_saw_survives_the_primarys_death_and_a_power_cut_at_its_standby(
    tmp_path: Path, engine: Engine
) -> None:
    office = Office(tmp_path, engine)

    with office.cuts.recorded():
        pair = office.open().protected()
        for number in range(1, 6):
            office.clerk(pair.a).enter()
            pair.until(lambda number=number: number in office.told)
        pair.kill(pair.a)
        pair.close()

    assert office.told == [1, 2, 3, 4, 5]
    assert office.cuts.check(recover, draws=DRAWS) == DRAWS


def be_slow(image: Image) -> None:
    """Have a disk's image take no step before somebody waits for it."""
    is_asked, apply, persist = Event(), image._apply, image.persist

    def apply_late(step: dict[int, bytes]) -> None:
        is_asked.wait(10)
        apply(step)

    def ask(then: Callable[[OSError | None], None]) -> None:
        is_asked.set()
        persist(then)

    image._apply, image.persist = apply_late, ask  # type: ignore[method-assign]


def test_what_a_client_saw_beside_a_standby_is_on_the_disk_of_who_has_lost_it_before_that_speaks_again(
    tmp_path: Path,
) -> None:
    office = Office(tmp_path, Kemari(), recorded="a", promises=lambda number: (1, 2, 3) if number == 4 else ())

    with office.cuts.recorded():
        pair = office.open().protected()
        be_slow(office.clerk(pair.a).disk.image)
        for number in range(1, 4):
            office.clerk(pair.a).enter()
            pair.until(lambda number=number: number in office.told)
        pair.kill(pair.b)
        office.clerk(pair.a).enter(flushes=False)
        pair.until(lambda: 4 in office.told)
        pair.close()

    assert office.told == [1, 2, 3, 4]
    assert office.cuts.check(recover, draws=DRAWS) == DRAWS


@pytest.mark.parametrize("has_disk", [True, False])
def test_a_host_waits_for_flushes_where_its_guest_has_a_disk_with_an_image(has_disk: bool, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    guest = RiscvGuest(read_program("ticks"), memory_bytes=2 << 20, disk=str(image) if has_disk else 0)

    settings = _with_disks(make_settings(), guest, starts=True)

    assert settings.keeps_disks is has_disk
    assert bool(settings.lineage) is has_disk
    guest.close()
