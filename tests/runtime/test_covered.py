"""A guest's flush is answered ahead of the device of its host, and what a client saw behind it is nowhere lost.

Not where the standby's power fails behind the primary's death, nor where the primary's does, nor where the standby
dies. The guest of these tests writes an entry to its disk over NBD, as a machine does; it flushes, awaits the answer,
and tells.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from ftvm.checkpoint import Bitmap, Geometry, Output, RegionShape
from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.guests.disk.disk import Disk
from ftvm.guests.flagged import FlaggedMemory
from ftvm.interfaces import Capability, Engine, OutputSink, Region
from ftvm.protocol.view import Role
from ftvm.testing import PowerCuts
from ftvm.testing.pair import Pair, SteppedHost
from ftvm.units import PAGE_BYTES, PageCount

from ..guests.disk.nbd import FLUSH, Client
from ..guests.disk.witness import SYNC, Change, Witness, noted
from .test_flush import PAGES, recover

DRAWS = 80
WAIT = 60


class Scribe:
    """A guest with a disk behind NBD, on a host whose device syncs unless it is stuck."""

    def __init__(self, folder: Path, cuts: PowerCuts, *, boots: bool) -> None:
        self.syncs = 0
        self.device = Event()
        self.device.set()
        self.cuts, self.folder = cuts, folder
        self.witness = Witness(self._note)
        self.disk = Disk(str(folder / "disk"), boots=boots, witnesses=self.witness.descriptors)
        self.ram = FlaggedMemory(PAGE_BYTES)
        self.client = Client(self.disk).agree()
        self._sink: OutputSink | None = None
        self._is_closed = False

    def _note(self, change: Change) -> int:
        if change.kind == SYNC:
            assert self.device.wait(WAIT)
            self.syncs += 1
        if self.folder == self.cuts._log.root:
            noted(self.cuts, change, self.disk.image.path.stat())
        return 0

    def enter(self, *, flushes: bool = True) -> None:
        """Write the next entry, and tell its number to the client."""
        number = self.ram.buffer[0] + 1
        assert self.client.write(number * PAGE_BYTES, bytes([number]) * PAGE_BYTES) == 0
        if flushes:
            assert self.client.ask(FLUSH) == 0
        self.ram.write(0, bytes([number]))
        assert self._sink is not None
        self._sink.emit("net0", bytes([number]))

    @property
    def memory(self) -> tuple[Region, ...]:
        return (
            Region(name="ram", buffer=self.ram.buffer, page_count=self.ram.page_count),
            Region(name="disk", buffer=self.disk.buffer, page_count=PageCount(PAGES), store=self.disk),
        )

    @property
    def geometry(self) -> Geometry:
        shapes = (RegionShape(name=region.name, page_count=region.page_count) for region in self.memory)
        return Geometry(machine="scribe/1", regions=tuple(shapes))

    can: frozenset[Capability] = frozenset()

    def attach(self, sink: OutputSink) -> None:
        self._sink = sink

    def pause(self) -> None:
        self.disk.hurry()
        self.disk.rest()

    def resume(self) -> None:
        self.disk.when_settled(lambda _: None)

    def collect_dirty(self) -> Bitmap:
        return Bitmap((1, PAGES), (self.ram.take_dirty(), self.disk.collect().words[0]))

    def restore_dirty(self, bitmap: Bitmap) -> None:
        self.ram.put_dirty(bitmap.words[0])
        self.disk.restore(Bitmap((PAGES,), (bitmap.words[1],)))

    def save_devices(self) -> bytes:
        return b"scribe"

    def load_devices(self, devices: bytes) -> None:
        assert devices == b"scribe"

    def deliver(self, channel: str, payload: bytes) -> None:
        """It listens to nobody."""

    def failure(self) -> str | None:
        return None

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.device.set()
        self.client.close()
        self.disk.close()
        self.witness.close()


class Office:
    """A pair of scribes, the files of one of whose hosts are recorded."""

    def __init__(self, folder: Path, engine: Engine, *, recorded: str, awaited: int = 0) -> None:
        """Each number is promised once it has left a host; or all before it, once that which is `awaited` has."""
        for name in "ab":
            (folder / name).mkdir()
            (folder / name / "disk").write_bytes(bytes(PAGES * PAGE_BYTES))
        self.cuts = PowerCuts(folder / recorded)
        self.told: list[int] = []
        self._folder, self._engine, self._awaited = folder, engine, awaited
        self._booting = iter("ab")

    @contextmanager
    def covered(self) -> Iterator[Pair]:
        """Yield the pair, protected, its active's flushes covered; record what happens."""
        with self.cuts.recorded():
            pair = Pair(guest=self._make, let_run=lambda _: None, on_output=self._tell, engine=self._engine)
            pair.protected()
            pair.until(lambda: scribe(pair.a).disk._is_covered)
            yield pair
            pair.close()

    def _make(self, boots: bool) -> Scribe:
        return Scribe(self._folder / next(self._booting), self.cuts, boots=boots)

    def _tell(self, _host: SteppedHost, output: Output) -> None:
        (number,) = output.payload
        self.told.append(number)
        if not self._awaited:
            self.cuts.mark(number)
        elif number == self._awaited:
            for earlier in range(1, number):
                self.cuts.mark(earlier)


def scribe(host: SteppedHost) -> Scribe:
    assert isinstance(host.guest, Scribe)
    return host.guest


@pytest.mark.parametrize("engine", [Remus(interval=0.02), Kemari()], ids=lambda each: each.name)
def test_what_a_client_saw_behind_a_covered_flush_survives_the_primarys_death_and_a_power_cut_at_its_standby(
    tmp_path: Path, engine: Engine
) -> None:
    """The primary's device is stuck all the time: it has none of it."""
    office = Office(tmp_path, engine, recorded="b")

    with office.covered() as pair:
        primary = scribe(pair.a)
        primary.device.clear()
        before = primary.syncs
        for number in range(1, 6):
            primary.enter()
            pair.until(lambda number=number: number in office.told)
        synced = primary.syncs - before
        pair.kill(pair.a)

    assert (office.told, synced) == ([1, 2, 3, 4, 5], 0)
    assert office.cuts.check(recover, draws=DRAWS) == DRAWS


def test_what_a_client_saw_behind_a_covered_flush_is_where_the_guest_goes_on_when_the_primary_loses_power(
    tmp_path: Path,
) -> None:
    office = Office(tmp_path, Kemari(), recorded="b")

    with office.covered() as pair:
        primary, standby = scribe(pair.a), scribe(pair.b)
        primary.device.clear()
        for number in range(1, 4):
            primary.enter()
            pair.until(lambda number=number: number in office.told)
        pair.kill(pair.a)
        pair.until(lambda: pair.b.role is Role.ACTIVE)
        found = [standby.client.read(number * PAGE_BYTES, 1) for number in (1, 2, 3)]
        standby.enter()
        pair.until(lambda: 4 in office.told)

    assert found == [b"\1", b"\2", b"\3"]
    assert office.cuts.check(recover, draws=DRAWS) == DRAWS


def test_what_a_client_saw_behind_a_covered_flush_is_on_the_primarys_device_before_that_speaks_alone(
    tmp_path: Path,
) -> None:
    """The last entry is told without another flush: nothing but the wish for durability makes the device sync."""
    office = Office(tmp_path, Kemari(), recorded="a", awaited=4)

    with office.covered() as pair:
        for number in range(1, 4):
            scribe(pair.a).enter()
            pair.until(lambda number=number: number in office.told)
        pair.kill(pair.b)
        scribe(pair.a).enter(flushes=False)
        pair.until(lambda: 4 in office.told)

    assert office.told == [1, 2, 3, 4]
    assert office.cuts.check(recover, draws=DRAWS) == DRAWS


def test_a_primary_whose_device_is_stuck_says_nothing_alone_of_what_was_covered(tmp_path: Path) -> None:
    office = Office(tmp_path, Kemari(), recorded="a")

    with office.covered() as pair:
        primary = scribe(pair.a)
        primary.device.clear()
        primary.enter()
        pair.until(lambda: 1 in office.told)
        pair.kill(pair.b)
        primary.enter(flushes=False)
        pair.until(lambda: pair.record().standby is None)
        pair.run(100)
        stuck = list(office.told)
        primary.device.set()
        pair.until(lambda: 2 in office.told)

    assert stuck == [1]
