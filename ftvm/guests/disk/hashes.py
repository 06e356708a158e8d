"""The hashes of a disk's image, in a file beside it: a host that joins says by them what it has, and need not read a
whole disk for that.

A region of 256 pages is **known** if its hashes are of what the image has. The image's thread learns regions while it
rests (image.py), by reading them, and forgets one before it writes there. Which regions are known is in memory; a host
that ends in order writes it down.

Promises that what is known is so, as far as a system tells of writes to a file:

* whoever gives the image to a guest forgets all before;
* what lies beside an image counts only if its host ended in order, this is the same file, and nobody has changed it
  since: its change time tells, which a copy can not set back, and which had gone on when that was written down. It
  counts no more, and the device has that, before this host writes to the image;
* it does not count on a system that was started since: a power cut may lose a file's time, and keep what was written.
  So behind a crash nothing is known, nor of a device, of which nobody keeps a time;
* also while this host has the image, a change that was not its own makes all unknown.

What no file's time tells is not seen: who writes below the file system. A doubt, or a file that cannot be used, costs a
reading, and is no error. That needs no word with the other host: the hashes are compared page by page.

    {"file": "1234-17…", "changed": "…", "boot": "…", "pages": 262144, "first": 65536, …} DIGEST, flags, hashes
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import xxhash

from ftvm._native.memory import UNKNOWN_HASH
from ftvm.guests.blockdevice import is_device
from ftvm.guests.disk.blocks import data_runs
from ftvm.guests.disk.label import file_identity, write_at
from ftvm.units import PAGE_BYTES, PageCount

__all__ = ["REGION_PAGES", "REST_SECONDS", "HashFile", "Head", "decode_head", "encode_head"]

REGION_PAGES: Final = 256
"""Their hashes are a page: a region is 1 MiB."""
REST_SECONDS: Final = 0.2
"""An image that nothing was put to for so long learns some of its hashes."""
_HASH_BYTES: Final = len(UNKNOWN_HASH)
_HEAD_BYTES: Final = 4096
_DIGEST_CHARS: Final = 32
_AT_REST: Final = 8
"""So many regions are learned in one turn of a thread that rests; what comes meanwhile waits for one of them."""
_STEPS: Final = 8
"""A thread that does not rest learns one behind so many steps."""
_RUNS_AT_ONCE: Final = 64
"""So many runs of data that are known are passed by in the search for one that is not."""
_TICKS: Final = 20
_TICK_SECONDS: Final = 0.005
"""A file's time goes on in steps of 10 ms at most, where it is kept to the nanosecond."""
_COLD, _KNOWN, _HOT, _BAD = b"\0", b"\1", b"\2", b"\3"
"""Not known; known; written since the last round; not readable. Memory has a byte for each region: 1 MiB for 1 TiB."""
_ONLY_KNOWN: Final = bytes.maketrans(_HOT + _BAD, _COLD * 2)
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What hashes say of the image that they are of.

    file     its identity, see label.py
    changed  what changes whenever somebody writes to it
    boot     of the system
    pages    it has so many
    first    the number of the first in its guest's memory, with which the hashes are seeded
    known    the digest of the flags that say which regions are known
    """

    file: str
    changed: str
    boot: str
    pages: int
    first: int
    known: str
    version: int = 1


def encode_head(head: Head) -> bytes:
    """Return the head as it stands in the file."""
    text = json.dumps(asdict(head)).encode()
    return text.ljust(_HEAD_BYTES - _DIGEST_CHARS) + xxhash.xxh3_128_hexdigest(text).encode()


def decode_head(content: bytes) -> Head | None:
    """Return the head that was encoded; None for other bytes, and for another version."""
    text = content[: _HEAD_BYTES - _DIGEST_CHARS].rstrip(b" ")
    if content[_HEAD_BYTES - _DIGEST_CHARS :] != xxhash.xxh3_128_hexdigest(text).encode():
        return None
    try:
        head = Head(**json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return None
    return head if head.version == 1 else None


class HashFile:
    """The hashes of one image that this process holds. One thread changes them."""

    def __init__(self, side: Path, place: Path, image: int, page_count: PageCount, *, is_given: bool) -> None:
        """Take what lies beside the image, if that counts; of one that is given to a guest nothing is known."""
        self._path, self._place = side.with_name(side.name + ".hashes"), place
        self._page_count, self._region_count = page_count, -(-page_count // REGION_PAGES)
        self._hashes_at = _HEAD_BYTES + -(-self._region_count // PAGE_BYTES) * PAGE_BYTES
        self._descriptor = -1
        self._states = bytearray(self._region_count)
        self._first = self._first_wanted = -1
        self._stamp = ""
        self._cursor = self._steps = 0
        self._is_done = self._is_off = False
        is_found = False
        with suppress(OSError):
            is_found = self._find(image)
        if is_given or not is_found:
            self.clear()
            self._remove()

    def place_at(self, first_page: int) -> None:
        """Note which number the image's first page has in its guest's memory. From any thread."""
        self._first_wanted = first_page

    def of(self, image: int, first: int, count: int) -> bytes | None:
        """Return the hashes of pages, 16 bytes each; all ones where they are not known, None if none counts. From any
        thread, while nobody changes the image."""
        if self._first != self._first_wanted or _stamp(image) != self._stamp:
            return None
        parts, end = [], first + count
        while first < end:
            region = first // REGION_PAGES
            stop = min(end, (region + 1) * REGION_PAGES)
            known = self._read(first, stop - first) if self._states[region] == _KNOWN[0] else b""
            parts.append(known or UNKNOWN_HASH * (stop - first))
            first = stop
        return b"".join(parts)

    # --- for the image's thread ------------------------------------------------------------------------------------

    def forget(self, image: int, regions: Iterable[int]) -> None:
        """Note that regions are about to change; `note_written` once they have."""
        if _stamp(image) != self._stamp:
            self.clear()
        for region in set(regions):
            self._states[region : region + 1] = _HOT
        self._is_done = False

    def note_written(self, image: int) -> None:
        """Note that this host has changed the image; what it changed was forgotten before."""
        self._stamp = _stamp(image)

    def clear(self) -> None:
        """Forget all."""
        self._states = bytearray(self._region_count)
        self._cursor, self._is_done = 0, False

    def has_more(self) -> bool:
        """Tell whether there may be regions to learn."""
        return not (self._is_done or self._is_off)

    def learn(self, image: int, *, is_resting: bool, is_wanted: Callable[[], bool]) -> None:
        """Read some of the regions that are not known, those first that were not written for long, and know them.

        Ends behind the region at which `is_wanted` tells that the thread has other work.
        """
        self._steps += not is_resting
        if not is_resting and self._steps % _STEPS:
            return
        for _ in range(_AT_REST if is_resting else 1):
            if not self.has_more():
                return
            try:
                self._learn_one(image)
            except OSError:  # e.g. no room: what is not known is read when somebody asks
                self._is_off = True
            if is_wanted():
                return

    def close(self, image: int, *, is_good: bool) -> None:
        """Let go of the file, the image being as it will be found.

        is_good  nothing went wrong with the image: what is known may count
        """
        counts = False
        with suppress(OSError):
            counts = is_good and self._descriptor >= 0 and self._write_down(image)
        if not counts:
            self._remove()
        elif self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _learn_one(self, image: int) -> None:
        if self._first_wanted < 0:
            return
        stamp = _stamp(image)
        if stamp != self._stamp or self._first != self._first_wanted:
            self.clear()
            self._stamp, self._first = stamp, self._first_wanted
        region = self._next(image)
        if region is None:
            return
        hashes = self._hash(image, region)
        if hashes is not None:
            self._keep(region, hashes)
        if _stamp(image) == stamp:
            self._states[region : region + 1] = _BAD if hashes is None else _KNOWN

    def _next(self, image: int) -> int | None:
        """Return the next region to learn, None if it was not found yet, or all are known."""
        for _ in range(_RUNS_AT_ONCE):
            region = self._states.find(_COLD, self._cursor)
            run = next(data_runs(image, region * REGION_PAGES), None) if region >= 0 else None
            if run is None:  # the round is over
                self._is_done = _HOT not in self._states
                self._states, self._cursor = self._states.replace(_HOT, _COLD), 0
                return None
            self._cursor = max(region, run[0] // REGION_PAGES)
            if self._cursor == region:
                self._cursor += 1
                return region
        return None

    def _hash(self, image: int, region: int) -> bytes | None:
        """Return the hashes of a region, None if its content cannot be read."""
        page = region * REGION_PAGES
        count = min(REGION_PAGES, self._page_count - page)
        try:
            content = memoryview(os.pread(image, count * PAGE_BYTES, page * PAGE_BYTES))
        except OSError:
            return None
        if len(content) != count * PAGE_BYTES:
            return None
        pages = (content[at : at + PAGE_BYTES] for at in range(0, len(content), PAGE_BYTES))
        hashes = (xxhash.xxh3_128_digest(each, self._first + page + n) for n, each in enumerate(pages))
        return b"".join(each[::-1] for each in hashes)

    def _keep(self, region: int, hashes: bytes) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, _OPEN | os.O_CREAT | os.O_TRUNC, 0o600)
        write_at(self._descriptor, hashes, self._hashes_at + region * PAGE_BYTES)

    def _read(self, first: int, count: int) -> bytes:
        """Return hashes of one region as they lie there, nothing if they do not."""
        found = b""
        with suppress(OSError):
            found = os.pread(self._descriptor, count * _HASH_BYTES, self._hashes_at + first * _HASH_BYTES)
        return found if len(found) == count * _HASH_BYTES else b""

    def _find(self, image: int) -> bool:
        """Take what the file says, and have it count no more; tell whether it did. Raises OSError."""
        self._descriptor = os.open(self._path, _OPEN)
        head = decode_head(os.pread(self._descriptor, _HEAD_BYTES, 0))
        known = os.pread(self._descriptor, self._region_count, _HEAD_BYTES)
        write_at(self._descriptor, bytes(_HEAD_BYTES), 0)
        os.fdatasync(self._descriptor)
        if head is None or head != self._head(image, known, head.first):
            return False
        self._states[:] = known
        self._first, self._stamp = head.first, _stamp(image)
        return True

    def _write_down(self, image: int) -> bool:
        """Have the file count for whoever opens the image next; tell whether it does. Raises OSError."""
        os.fdatasync(image)
        known = bytes(self._states).translate(_ONLY_KNOWN)
        head = self._head(image, known, self._first)
        if head is None or not any(known) or _stamp(image) != self._stamp:
            return False
        for _ in range(_TICKS):
            write_at(self._descriptor, known, _HEAD_BYTES)
            if _is_later(self._descriptor, image):
                os.fdatasync(self._descriptor)
                write_at(self._descriptor, encode_head(head), 0)
                os.fdatasync(self._descriptor)
                return True
            threading.Event().wait(_TICK_SECONDS)
        return False

    def _head(self, image: int, known: bytes, first: int) -> Head | None:
        """Return the head of these hashes now, None if what tells of a change is missing."""
        file, boot = file_identity(self._place, image), ""
        with suppress(OSError):
            boot = _BOOT.read_text(encoding="ascii").strip()
        has_birth = not file.endswith("-0")  # else a later file may have its number
        if is_device(os.fstat(image)) or not has_birth or not boot or len(known) != self._region_count:
            return None
        digest = xxhash.xxh3_128_hexdigest(known)
        return Head(file=file, changed=_stamp(image), boot=boot, pages=self._page_count, first=first, known=digest)

    def _remove(self) -> None:
        """Let go of the file, and remove it if that can be done: it does not count."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _stamp(image: int) -> str:
    """Return what changes whenever somebody writes to a file; nothing of a device, of which nobody keeps that."""
    found = os.fstat(image)
    return "" if is_device(found) else f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _is_later(file: int, image: int) -> bool:
    """Tell whether one file was changed when the time that the other one keeps had gone on: what is written to that
    from now on shows. Times of two file systems are not compared."""
    ours, its = os.fstat(file), os.fstat(image)
    return ours.st_dev == its.st_dev and ours.st_ctime_ns > its.st_ctime_ns
