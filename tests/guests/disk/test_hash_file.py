"""The file of hashes beside an image: what is not one stops nobody, and no power cut makes it lie."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from ftvm.guests.disk import hashes as hashes_module
from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.hashes import REGION_PAGES, HashFile, Head, decode_head, encode_head
from ftvm.guests.disk.image import Image
from ftvm.guests.disk.label import file_identity
from ftvm.testing.powercut import PowerCuts

from . import devices
from .learning import (
    ALL,
    FIRST,
    PAGES,
    REGION_BYTES,
    SIZE,
    UNKNOWN,
    hash_of,
    known_pages,
    knows_all,
    learn,
    opened,
    put,
    region,
    require_true,
    side,
)
from .test_disk import wait_until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "REST_SECONDS", 0.001)


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image rests for long enough to learn."""
    monkeypatch.setattr(image_module, "REST_SECONDS", 3600)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "disk.img"
    made.write_bytes(os.urandom(SIZE))
    return made


@pytest.fixture
def learned(path: Path) -> Path:
    return learn(path)


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's time does not tell of a change: the rest has to do without."""
    monkeypatch.setattr(hashes_module, "_stamp", lambda _: "always the same")


# --- what lies there ---


heads = st.builds(
    Head,
    file=st.text(max_size=40),
    changed=st.text(max_size=40),
    boot=st.text(max_size=40),
    pages=st.integers(0, 2**32),
    first=st.integers(0, 2**32),
    known=st.text(max_size=32),
)


@given(head=heads, at=st.integers(0, 4095), flip=st.integers(1, 255))
def test_a_head_is_read_as_it_was_written_and_not_at_all_if_a_byte_differs(head: Head, at: int, flip: int) -> None:
    content = bytearray(encode_head(head))
    whole = decode_head(bytes(content))
    content[at] ^= flip

    assert len(content) == 4096
    assert whole == head
    assert decode_head(bytes(content)) in (None, head)
    assert decode_head(encode_head(head)[:at]) is None


@given(st.binary(max_size=5000))
def test_no_bytes_are_taken_for_a_head_or_end_anybody(content: bytes) -> None:
    text = content[:4064].rstrip(b" ")
    signed = content[:4064].ljust(4064) + xxhash.xxh3_128_hexdigest(text).encode()

    assert decode_head(content) is None
    assert decode_head(signed) is None


def test_a_head_of_another_version_is_none() -> None:
    head = Head(file="1-2", changed="3", boot="b", pages=4, first=5, known="6")

    assert decode_head(encode_head(replace(head, version=2))) is None
    assert decode_head(encode_head(head).replace(b"first", b"last_")) is None


def torn(place: Path) -> None:
    with place.open("r+b") as file:
        file.write(b"?")


def with_more_flags(place: Path) -> None:
    path = place.with_name("disk.img")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(image_module, "REST_SECONDS", 3600)
        image = opened(path)
        put(image, 3, 9)
        image.close()
    with place.open("r+b") as file:
        file.seek(4096)
        assert file.read(3) == b"\0\1\1"
        file.seek(4096)
        file.write(b"\1")


def a_folder(place: Path) -> None:
    place.unlink()
    place.mkdir()


def a_link(place: Path) -> None:
    place.rename(place.with_name("precious"))
    place.symlink_to(place.with_name("precious"))


STRANGE: dict[str, Callable[[Path], None]] = {
    "torn": torn,
    "with more flags": with_more_flags,
    "empty": lambda place: os.truncate(place, 0),
    "cut in its head": lambda place: os.truncate(place, 100),
    "cut in its flags": lambda place: os.truncate(place, 4097),
    "of zeros": lambda place: place.write_bytes(bytes(100_000)) and None,
    "a folder": a_folder,
    "a link": a_link,
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_file_of_hashes_stops_nobody_and_makes_nothing_known(learned: Path, kind: str) -> None:
    STRANGE[kind](side(learned))
    precious = side(learned).with_name("precious")
    linked = precious.read_bytes() if precious.exists() else b""

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(image_module, "REST_SECONDS", 3600)
        image = opened(learned)
    before = known_pages(image)
    put(image, 5, 7)
    if kind != "a folder":
        wait_until(lambda: knows_all(image))

    assert before == {}
    assert image.error is None
    require_true(image)
    image.close()
    assert linked == (precious.read_bytes() if precious.exists() else b"")


def test_hashes_that_were_cut_off_are_not_known(learned: Path) -> None:
    os.truncate(side(learned), side(learned).stat().st_size - 16 * PAGES)

    image = opened(learned)

    assert known_pages(image).keys() < ALL
    require_true(image)
    image.close()


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_folder_that_takes_no_hashes_costs_only_them(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    real = getattr(os, call)

    def fail(where: int | Path, *rest: int) -> int:
        name = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else str(where)
        if name.endswith(".hashes"):
            raise OSError(errno.ENOSPC, "no room")
        return int(real(where, *rest))

    monkeypatch.setattr(os, call, fail)
    image = opened(path)
    wait_until(lambda: not image._hashes.has_more())
    put(image, 5, 7)

    assert known_pages(image) == {}
    image.close()
    assert image.error is None
    assert not side(path).exists()


def test_a_region_that_cannot_be_read_is_not_known_and_not_asked_for_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, asked = os.pread, []

    def fail(descriptor: int, count: int, offset: int) -> bytes:
        if count == REGION_BYTES and offset == 0:
            asked.append(offset)
            raise OSError(errno.EIO, "broken")
        return read(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", fail)
    image = opened(path)
    wait_until(lambda: not image._hashes.has_more())

    assert known_pages(image).keys() == ALL - region(0)
    assert asked == [0]
    assert image.error is None
    image.close()


@pytest.mark.parametrize("boots", [False, True])
@pytest.mark.usefixtures("timeless", "restless")
def test_whatever_moment_the_power_fails_at_what_is_known_is_so(
    learned: Path, monkeypatch: pytest.MonkeyPatch, boots: bool
) -> None:
    """Though neither the file's time nor the system's start tells of it here."""
    monkeypatch.setattr(hashes_module, "_STEPS", 1)
    cuts = PowerCuts(learned.parent)
    with cuts.recorded():
        image = opened(learned, boots=boots)
        for page, fill in ((5, 1), (REGION_PAGES, 2), (6, 3), (5, 4)):
            put(image, page, fill)
        image.close()
        image = opened(learned)
        os.pwrite(image.descriptor, b"guest" * 100, 0)
        with monkeypatch.context() as dying:  # what it wrote is in the system's cache still
            dying.setattr(HashFile, "close", lambda *_, **__: None)
            image.close()
        opened(learned).close()
        image = opened(learned)
        image.give(lambda _: None)
        image.sync()
        os.pwrite(image.descriptor, b"guest" * 100, 2 * REGION_BYTES)
        image.close()

    def recover(folder: Path, _: tuple[object, ...]) -> None:
        again = opened_as_it_was(folder / "disk.img", learned)
        try:
            require_true(again)
        finally:
            again.close()

    assert cuts.check(recover, draws=300) == 300


def test_of_a_device_is_known_what_was_learned_and_nothing_behind_its_host(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes_module, "_is_later", lambda *_: True)
    disk = Disk(str(device), boots=False)
    disk.place_at(FIRST)
    content = b"o" * devices.SIZE
    wait_until(lambda: UNKNOWN not in (disk.image.hashes(0, devices.PAGES) or UNKNOWN))
    disk.discarded()
    disk.held()

    told = disk.offer(0, devices.PAGES)
    as_known = disk.keep(0, devices.PAGES, list(range(2, 40)))
    devices.change(disk, 50, fill=5)
    disk.committed([50])
    disk.completed()
    wait_until(disk.image._is_still)
    wait_until(lambda: UNKNOWN not in (disk.image.hashes(0, devices.PAGES) or UNKNOWN))
    after, now = disk.image.hashes(0, devices.PAGES), device.read_bytes()
    disk.close()
    again = Disk(str(device), boots=False)
    again.place_at(FIRST)

    assert told == b"".join(hash_of(content, page) for page in range(devices.PAGES))
    assert as_known == list(range(2, 40))
    assert after == b"".join(hash_of(now, page) for page in range(devices.PAGES))
    assert devices.pages_of(now)[50] == 5
    assert again.image._hashes._states == b"\0"
    again.close()


def opened_as_it_was(path: Path, original: Path) -> Image:
    """Open what a cut left as the file that it was: a copy of it is another file, of which nothing is known."""
    descriptor = os.open(original, os.O_RDONLY)
    identity = file_identity(original, descriptor)
    os.close(descriptor)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(hashes_module, "file_identity", lambda *_: identity)
        return opened(path)
