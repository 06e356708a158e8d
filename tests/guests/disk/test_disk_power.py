"""What a guest was told to have flushed survives a power cut from the moment on when anything can follow from it.

The store in C tells a witness what it does to the image; the model of power cuts is told by that, and by what Python
does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import pytest

from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.image import Image
from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing import ContractBroken, PowerCuts

from .nbd import FLUSH, FUA, WRITE_ZEROES, Client
from .witness import SYNC, Change, Witness, noted

PAGE = 4096
PAGES = 4
DRAWS = 200


class Host:
    """A host with a disk, every change of whose files is recorded."""

    def __init__(self, folder: Path, *, boots: bool, forgets: int | None = None) -> None:
        """`forgets` is a kind of change that the store in C leaves out, as far as the model knows."""
        self._forgets = forgets
        self._witness = Witness(self._note)
        self.disk = Disk(str(folder / "disk"), boots=boots, witnesses=self._witness.descriptors)
        self.cuts = PowerCuts(folder)
        self.client = Client(self.disk).agree()

    def _note(self, change: Change) -> int:
        if change.kind != self._forgets:
            noted(self.cuts, change, self.disk.image.path.stat())
        return 0

    def write(self, page: int, flags: int = 0) -> None:
        """Write a page that nobody writes a second time."""
        assert self.client.write(page * PAGE, bytes([page + 1]) * PAGE, flags) == 0

    def commit(self, page: int) -> None:
        self.disk.buffer[page * PAGE : (page + 1) * PAGE] = bytes([page + 1]) * PAGE
        self.disk.committed([page])

    def close(self) -> None:
        self.client.close()
        self.disk.close()
        self._witness.close()


@contextmanager
def host(folder: Path, *, boots: bool, forgets: int | None) -> Iterator[Host]:
    (folder / "disk").write_bytes(bytes(PAGES * PAGE))
    made = Host(folder, boots=boots, forgets=forgets)
    with made.cuts.recorded():
        yield made
        made.close()


Play = Callable[[Path, int | None], PowerCuts]


def a_guest_that_flushes(folder: Path, forgets: int | None = None) -> PowerCuts:
    with host(folder, boots=True, forgets=forgets) as made:
        for page in range(2):
            made.write(page)
            assert made.client.ask(FLUSH) == 0
            made.cuts.mark(page)
        made.write(2, FUA)
        made.cuts.mark(2)
    return made.cuts


def a_guest_that_is_stopped_in_a_flush(folder: Path, forgets: int | None = None) -> PowerCuts:
    """It is told at once, and goes on once the device has it."""
    with host(folder, boots=True, forgets=forgets) as made:
        made.write(0)
        made.disk.hurry()
        assert made.client.ask(FLUSH) == 0
        made.disk.when_settled(lambda wrong: made.cuts.mark(0 if wrong is None else wrong))
        made.write(1)
        assert made.client.ask(FLUSH) == 0
        made.cuts.mark(1)
    return made.cuts


def a_guest_that_loses_its_standby(folder: Path, forgets: int | None = None) -> PowerCuts:
    """What it flushed before is durable once its host may speak alone, and what it flushes behind that at once."""
    with host(folder, boots=True, forgets=forgets) as made:
        made.disk.cover(is_covered=True)
        made.write(0)
        assert made.client.ask(FLUSH) == 0
        made.disk.cover(is_covered=False)
        settled: SimpleQueue[str | None] = SimpleQueue()
        made.disk.persist(settled.put)
        assert settled.get(timeout=60) is None
        made.cuts.mark(0)
        made.write(1)
        assert made.client.ask(FLUSH) == 0
        made.cuts.mark(1)
    return made.cuts


def a_guest_that_takes_over(folder: Path, forgets: int | None = None) -> PowerCuts:
    """What was committed is in the image, or about to be; what it writes itself is durable when it was flushed."""
    with host(folder, boots=False, forgets=forgets) as made:
        made.disk.discarded()
        made.disk.completed()
        made.commit(0)
        made.disk.image.sync()
        made.cuts.mark(0)
        made.commit(1)
        made.disk.when_settled(lambda _: None)
        made.write(2)
        assert made.client.ask(WRITE_ZEROES, 3 * PAGE, PAGE) == 0
        assert made.client.ask(FLUSH) == 0
        made.cuts.mark(1)
        made.cuts.mark(2)
        made.write(3)
        made.disk.committed(())
        made.disk.image.sync()
    return made.cuts


def recover(folder: Path, marks: tuple[object, ...]) -> None:
    Image(folder / "disk").close()
    found = (folder / "disk").read_bytes()
    for page in marks:
        assert isinstance(page, int)
        assert found[page * PAGE : (page + 1) * PAGE] == bytes([page + 1]) * PAGE, f"page {page} was flushed"


STORIES = [
    a_guest_that_flushes,
    a_guest_that_is_stopped_in_a_flush,
    a_guest_that_loses_its_standby,
    a_guest_that_takes_over,
]


@pytest.mark.parametrize("play", STORIES)
def test_a_flush_that_the_guest_goes_on_from_survives_every_cut(tmp_path: Path, play: Play) -> None:
    assert play(tmp_path, None).check(recover, draws=DRAWS) == DRAWS


@pytest.mark.parametrize("play", STORIES)
def test_a_store_that_does_not_sync_is_found(tmp_path: Path, play: Play) -> None:
    cuts = play(tmp_path, SYNC)

    with pytest.raises(ContractBroken, match=r"page \d was flushed"):
        cuts.check(recover, draws=10 * DRAWS)


def a_guest_that_takes_over_from_a_journal(folder: Path) -> PowerCuts:
    """The last step was of the page that the guest writes next."""
    with host(folder, boots=False, forgets=None) as made:
        made.disk.discarded()
        made.disk.completed()
        made.disk.image.sync()
        made.disk.buffer[:PAGE] = b"\xff" * PAGE
        made.disk.committed([0])
        made.disk.when_settled(lambda _: None)
        made.write(0)
        assert made.client.ask(FLUSH) == 0
        made.cuts.mark(0)
    return made.cuts


def test_what_a_guest_writes_after_a_takeover_is_undone_by_no_journal(tmp_path: Path) -> None:
    assert a_guest_that_takes_over_from_a_journal(tmp_path).check(recover, draws=DRAWS) == DRAWS


def test_a_journal_that_is_kept_when_a_guest_takes_over_is_found(tmp_path: Path) -> None:
    keeps = Edit("ftvm.guests.disk.image:Image._work", "self._drop_journal()", "pass")
    with broken(Mutant(name="keeps", breaks="the journal is gone before the guest writes", edits=(keeps,))):
        cuts = a_guest_that_takes_over_from_a_journal(tmp_path)

    with pytest.raises(ContractBroken, match=r"page \d was flushed"):
        cuts.check(recover, draws=10 * DRAWS)
