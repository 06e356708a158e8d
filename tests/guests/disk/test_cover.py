"""A covered disk answers a flush before its device has it, and owes it: so much at most, and for so long."""

import errno
import threading
from pathlib import Path
from queue import SimpleQueue

import pytest

from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.label import read_label
from ftvm.units import PAGE_BYTES

from .conftest import SIZE
from .nbd import FLUSH, FUA, READ, WRITE, Client
from .witness import SYNC, Gate, Witness
from .witness import WRITE as WROTE

WAIT = 60


@pytest.fixture(autouse=True)
def _time_brings_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is owed is done because somebody wants it, and not because it was owed for long."""
    monkeypatch.setattr("ftvm.guests.disk.disk._BEHIND_MS", 3_600_000)


@pytest.fixture
def gate(witness: Witness) -> Gate:
    """A device that takes what it is given, and syncs when a test lets it."""
    witness.decide = made = Gate()
    return made


def is_answered_behind_a_read(client: Client) -> bool:
    """Ask for a flush and a read, and tell whether the read is answered first: the flush waits then. The read's answer
    is taken, and that of a flush that does not wait."""
    client.send(FLUSH, cookie=1)
    client.send(READ, 0, 1, cookie=2)
    cookie, _ = client.answer()
    if cookie == 1:
        assert client.answer() == (2, 0)
    client.take(1)
    return cookie == 2


def flush_covered(disk: Disk, client: Client) -> None:
    """Have the guest write and flush while its disk is covered: it is answered, and the device has not got it."""
    client.agree()
    disk.cover(is_covered=True)
    assert client.write(0, b"covered") == client.ask(FLUSH) == 0


@pytest.mark.parametrize("flags", [0, FUA])
def test_a_covered_flush_is_answered_although_the_device_has_nothing_of_it(
    flags: int, disk: Disk, client: Client, gate: Gate, witness: Witness
) -> None:
    client.agree()
    disk.cover(is_covered=True)

    assert client.write(0, b"covered", flags) == 0
    assert client.ask(FLUSH) == 0

    assert witness.kinds() == [WROTE]
    assert disk.take_flush()
    gate.permit(10)


def test_a_flush_that_is_covered_no_longer_waits_for_all_that_is_owed(
    disk: Disk, client: Client, gate: Gate, witness: Witness
) -> None:
    flush_covered(disk, client)

    disk.cover(is_covered=False)
    waits = is_answered_behind_a_read(client)
    gate.permit(10)

    assert waits
    assert client.answer() == (1, 0)
    assert SYNC in witness.kinds()


def test_what_is_owed_begins_to_be_done_when_the_disk_is_covered_no_longer_and_nobody_asks(
    disk: Disk, client: Client, gate: Gate
) -> None:
    flush_covered(disk, client)

    disk.cover(is_covered=False)

    assert gate.is_asked.wait(WAIT)
    gate.permit(10)


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, witness: Witness) -> Disk:
    """A disk that may be four pages behind."""
    monkeypatch.setattr("ftvm.guests.disk.disk._BEHIND_BYTES", 4 * PAGE_BYTES)
    path = tmp_path / "short.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=True, witnesses=witness.descriptors)
    disk.cover(is_covered=True)
    return disk


def test_a_device_that_is_so_much_behind_is_waited_for_and_begins_at_the_half_of_it(
    short: Disk, gate: Gate, witness: Witness
) -> None:
    client = Client(short).agree()
    assert client.write(0, b"1" * PAGE_BYTES) == client.ask(FLUSH) == 0
    before = witness.kinds()

    assert client.write(PAGE_BYTES, b"2" * PAGE_BYTES) == client.ask(FLUSH) == 0
    has_begun = gate.is_asked.wait(WAIT)
    assert client.write(2 * PAGE_BYTES, b"3" * PAGE_BYTES) == client.ask(FLUSH) == 0
    client.write(3 * PAGE_BYTES, b"4" * PAGE_BYTES)
    waits = is_answered_behind_a_read(client)
    gate.permit(1)
    answer = client.answer()  # two pages behind again

    assert (before, has_begun, waits, answer) == ([WROTE], True, True, (1, 0))
    gate.permit(10)
    client.close()
    short.close()


def test_a_device_that_is_so_long_behind_is_waited_for_and_begins_before_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, witness: Witness, gate: Gate
) -> None:
    monkeypatch.setattr("ftvm.guests.disk.disk._BEHIND_MS", 20)
    path = tmp_path / "late.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=True, witnesses=witness.descriptors)
    disk.cover(is_covered=True)
    client = Client(disk).agree()

    assert client.write(0, b"covered") == client.ask(FLUSH) == 0
    assert gate.is_asked.wait(WAIT)
    while not is_answered_behind_a_read(client):
        pass
    gate.permit(10)

    assert client.answer() == (1, 0)
    client.close()
    disk.close()


def test_a_guest_that_was_stopped_in_a_covered_flush_goes_on_at_once(disk: Disk, client: Client, gate: Gate) -> None:
    client.agree()
    disk.cover(is_covered=True)
    disk.hurry()
    assert client.write(0, b"covered") == client.ask(FLUSH) == 0
    disk.rest()
    told: list[str | None] = []

    disk.when_settled(told.append)

    assert told == [None]
    gate.permit(10)


def test_a_wish_for_durability_has_the_covered_flushes_done_and_waits_for_them(
    disk: Disk, client: Client, gate: Gate
) -> None:
    """Mutant: the image's own thread has nothing to do, and says so at once."""
    flush_covered(disk, client)
    told: SimpleQueue[str | None] = SimpleQueue()

    disk.persist(told.put)
    assert gate.is_asked.wait(WAIT)
    disk.image.sync()  # so the image has had its say
    before = told.empty()
    assert client.write(0, b"later") == client.ask(FLUSH) == 0  # what comes behind the wish is not waited for
    gate.permit(1)

    assert told.get(timeout=WAIT) is None
    assert before
    gate.permit(10)


def test_a_flush_is_owed_still_once_what_was_held_has_moved_to_the_image(
    disk: Disk, client: Client, gate: Gate, witness: Witness
) -> None:
    """Mutant: the thread's turn that moved it did the flush as well, although none was due."""
    client.agree()
    disk.cover(is_covered=True)
    disk.hurry()
    assert client.write(0, b"held as it stopped") == client.ask(FLUSH) == 0
    told: SimpleQueue[str | None] = SimpleQueue()

    disk.rest()
    while any(disk._held.runs()):
        pass
    disk.when_settled(lambda _: None)
    assert client.read(0, 4) == b"held"
    disk.persist(told.put)
    is_asked = gate.is_asked.wait(WAIT)
    gate.permit(10)

    assert is_asked
    assert told.get(timeout=WAIT) is None
    assert witness.kinds() == [WROTE, SYNC]


def test_a_wish_for_durability_of_a_guest_that_left_meanwhile_is_the_images(
    disk: Disk, client: Client, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftvm.guests.disk.disk._PATIENCE_MS", 10)
    flush_covered(disk, client)
    told: SimpleQueue[str | None] = SimpleQueue()
    disk.persist(told.put)
    assert gate.is_asked.wait(WAIT)

    disk.cover(is_covered=False)
    disk.committed([])
    gate.permit(10)

    assert told.get(timeout=WAIT) is None
    disk.image.sync()
    assert disk.image.path.read_bytes()[:7] == b"covered"


def test_a_device_that_fails_behind_a_covered_flush_fails_for_good_and_its_image_is_not_clean(
    tmp_path: Path, witness: Witness, gate: Gate
) -> None:
    """What was answered is on the standby's disk. Mutant: the sync is tried again, and the system has forgotten."""
    path = tmp_path / "failing.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=True, witnesses=witness.descriptors)
    client = Client(disk).agree()
    disk.cover(is_covered=True)
    told: SimpleQueue[str | None] = SimpleQueue()
    assert client.write(0, b"covered") == client.ask(FLUSH) == 0
    gate.error = errno.EIO

    disk.persist(told.put)
    gate.permit(10)
    why = told.get(timeout=WAIT)

    assert why is not None
    assert "Input/output error" in why
    assert client.ask(FLUSH) == errno.EIO
    assert client.ask(WRITE, 0, 4, b"more") == errno.EIO
    client.close()
    disk.close()
    assert witness.kinds().count(SYNC) == 1
    label = read_label(path)
    assert label is not None
    assert not label.is_clean


def test_a_covered_disk_that_is_closed_in_order_owes_nothing(tmp_path: Path, witness: Witness) -> None:
    path = tmp_path / "closed.img"
    path.write_bytes(bytes(SIZE))
    disk = Disk(str(path), boots=True, witnesses=witness.descriptors)
    client = Client(disk).agree()
    disk.cover(is_covered=True)
    assert client.write(0, b"covered") == client.ask(FLUSH) == 0

    client.close()
    disk.close()

    assert witness.kinds() == [WROTE, SYNC]
    label = read_label(path)
    assert label is not None
    assert label.is_clean


def test_a_disk_that_is_closed_while_somebody_waits_for_durability_answers(
    disk: Disk, client: Client, gate: Gate
) -> None:
    flush_covered(disk, client)
    told: SimpleQueue[str | None] = SimpleQueue()
    disk.persist(told.put)
    assert gate.is_asked.wait(WAIT)

    closing = threading.Thread(target=disk.close)
    closing.start()
    gate.permit(10)

    assert told.get(timeout=WAIT) is None
    closing.join(WAIT)
