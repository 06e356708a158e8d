"""What a disk's image says of itself: a label beside it, so that an operator who finds two knows which is the newer.
blockdevice.py says where that of a device is.

A label names the **lineage** that the image's content belongs to (one for each boot of a guest, with those before it),
the **generation** of the record in which it was written last, whether the guest **ran** on it then or a standby kept
it, the **epoch** that it has at least, and whether it is **clean**: exactly the disk of one moment. One that is not is
what a power cut leaves of a machine's disk. `newer` compares two labels by these.

It promises that a label is never better than its image: what is claimed was on the device before. The file has two
places, which are written in turn; a torn one is known by its digest, and the other holds. A label belongs to one file:
beside a copy, or another file of that name, it says nothing.

    {"count": 12, "file": "1234-17…", "image": "93ab…", "lineage": "…", "generation": 8, …} DIGEST
"""

import errno
import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import xxhash

from ftvm._native.blockstore import birth_of
from ftvm.checkpoint import Footing
from ftvm.guests.blockdevice import device_bytes, image_name, is_device, lasting_name, side_path

__all__ = [
    "Label",
    "LabelFile",
    "file_identity",
    "fresh_identity",
    "is_unmoved",
    "label_path",
    "newer",
    "read_label",
    "stage_path",
    "sync_directory",
    "write_at",
]

_PLACE_BYTES: Final = 4096
"""As far apart as the largest sector that a device may tear."""
_TEXT_BYTES_MAX: Final = 1024
_DIGEST_CHARS: Final = 32
_PARENTS_KEPT: Final = 8
_EPOCH_STEPS: Final = 16
"""How many steps an image may be further than the epoch that its label names: a label costs a sync."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What an image says of itself.

    image       the name of this very file, 16 hex digits
    lineage     what its content belongs to, 16 hex digits; "" if that is not known
    parents     the lineages that this one went on from, the latest first, each with its last generation known here
    generation  of the record when it was written last; 0 before that is known
    epoch       at least this one is in it whole; 0 where the guest ran
    runs        the guest ran on it in that generation; else it is a standby's
    is_clean    it is the disk of one moment: of a committed epoch, or of an orderly end
    """

    image: str
    lineage: str = ""
    parents: tuple[tuple[str, int], ...] = ()
    generation: int = 0
    epoch: int = 0
    runs: bool = False
    is_clean: bool = False

    def lineages(self) -> tuple[tuple[str, int], ...]:
        """Return the parents of a lineage that goes on from this one."""
        own = ((self.lineage, self.generation),) if self.lineage else ()
        return (*own, *self.parents)[:_PARENTS_KEPT]

    def blank(self) -> "Label":
        """Return the label of an image of which nothing is known."""
        return Label(image=self.image)

    def at(self, footing: Footing | None, *, runs: bool, epoch: int | None = None) -> "Label":
        """Return the label of the same image, whole, at a footing, if there is one.

        epoch  that a standby's is said to be of, in place of the footing's
        """
        if footing is None:
            return replace(self, runs=True, epoch=0, is_clean=False) if runs else self
        lineage, parents = self.lineage, self.parents
        if footing.lineage not in ("", lineage):
            lineage, parents = footing.lineage, self.lineages() if runs else ()
        return Label(
            image=self.image,
            lineage=lineage,
            parents=parents,
            generation=footing.generation,
            epoch=0 if runs else footing.epoch if epoch is None else epoch,
            runs=runs,
            is_clean=not runs,
        )

    def __str__(self) -> str:
        if not self.lineage:
            return "says nothing of its content" if self.runs else "ftvm has made no whole copy on it, and run no guest"
        if self.runs:
            kind = "the guest ran on it, " + ("and all it wrote is there" if self.is_clean else "not stopped in order")
        else:
            kind = f"a standby's, whole, of epoch {self.epoch} or later"
            kind += "" if self.is_clean else "; but its device failed, and may have lost some of it"
        known = f"generation {self.generation}" if self.generation else "generation not known yet"
        return f"{known}: {kind}; lineage {self.lineage}"


def newer(one: Label, other: Label) -> int | None:
    """Return 0 if the first is the newer, 1 if the second is; None if that cannot be said."""
    if one.lineage and one.lineage == other.lineage:
        ours, theirs = _order(one), _order(other)
        return None if ours == theirs else int(theirs > ours)
    for number, (child, parent) in enumerate(((one, other), (other, one))):
        if child.lineage and parent == parent.blank():
            return number  # nothing that rests on a copy leaves before its label names what it is of
        last = dict(reversed(child.parents)).get(parent.lineage)
        if last is not None and parent.generation <= last:
            return number
    return None


def _order(label: Label) -> tuple[int, bool, bool, int]:
    """Return what orders the labels of one lineage.

    Of one generation a standby's that is whole wins over that of a guest that was not stopped in order: it has what
    clients were told, which the other may lack, as its guest's flushes were perhaps covered (disk.py).
    """
    return label.generation, label.is_clean, label.runs, label.epoch


def fresh_identity() -> str:
    """Return a name that nothing has yet: 16 hex digits."""
    return secrets.token_hex(8)


def label_path(side: Path) -> Path:
    """Return where the label of an image lies; `side` is what the names of the files beside it begin with."""
    return side.with_name(side.name + ".label")


def stage_path(side: Path) -> Path:
    """Return where a whole copy lies that is being moved to a device; `side` as above."""
    return side.with_name(side.name + ".stage")


def file_identity(place: Path, descriptor: int) -> str:
    """Return what tells this file from each other one, also from a later one of its name."""
    status = os.fstat(descriptor)
    if is_device(status):
        return f"{lasting_name(place, status)} {device_bytes(descriptor)}"
    return f"{status.st_ino}-{birth_of(descriptor)}"


def read_label(path: Path) -> Label | None:
    """Return what the image at `path` says of itself, None if it has no label. Raises OSError if there is no image."""
    place = Path(os.path.realpath(path))
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        identity = file_identity(place, descriptor)
    finally:
        os.close(descriptor)
    try:
        found = _read_places(label_path(side_path(place)).read_bytes())
    except FileNotFoundError:
        return None
    return found.label if found is not None and found.file == identity else None


def is_unmoved(path: Path) -> bool:
    """Tell whether a part of what the device at `path` says of itself is not on it yet, but beside it."""
    return stage_path(side_path(path)).exists()


@dataclass(frozen=True, slots=True)
class _Written:
    file: str
    count: int
    label: Label


class LabelFile:
    """The label beside one image that this process holds. `label` is what is on the device."""

    def __init__(self, place: Path, descriptor: int) -> None:
        """Read it; an image without one gets a name, which a device may have already. Raises OSError."""
        self._path, self._place = label_path(side_path(place)), place
        self._file = file_identity(place, descriptor)
        is_new = not self._path.exists()
        self._unsaid_steps = 0
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            found = _read_places(os.pread(self._descriptor, 2 * _PLACE_BYTES, 0))
            self._count = found.count if found is not None else 0
            if found is not None and found.file == self._file:
                self.label = found.label
            else:
                name = image_name(descriptor) or fresh_identity()
                may_be_guests = not _is_empty(descriptor)  # of which, and as of when, is not known
                self.write(Label(image=name, runs=may_be_guests))
            if is_new:
                sync_directory(self._path.parent)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, label: Label) -> None:
        """Have the device hold this label; until it does, the one before holds. Raises OSError."""
        self._count += 1
        content = _pack(_Written(self._file, self._count, label))
        write_at(self._descriptor, content, self._count % 2 * _PLACE_BYTES)
        os.fdatasync(self._descriptor)
        self.label = label

    def other(self, footing: Footing | None, *, runs: bool, epoch: int | None = None) -> Label | None:
        """Return what is to be said of an image that is whole, at a footing, if that is not what is said already."""
        wanted = self.label.at(footing, runs=runs, epoch=epoch)
        return wanted if wanted != self.label else None

    def say(self, footing: Footing | None, *, runs: bool, has_stepped: bool) -> None:
        """Write that, if it is due: another epoch alone is not worth a sync each time. Raises OSError."""
        self._unsaid_steps += has_stepped
        is_due = self._unsaid_steps >= _EPOCH_STEPS
        label = self.other(footing, runs=runs, epoch=None if is_due else self.label.epoch)
        if label is not None:
            self.write(label)
            self._unsaid_steps = 0

    def move_to(self, descriptor: int) -> None:
        """The image is another file from now on: its label says nothing until the next `write`. Raises OSError."""
        self._file, self.label = file_identity(self._place, descriptor), self.label.blank()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def _is_empty(descriptor: int) -> bool:
    """Tell whether an image is one hole: nothing was ever written to it."""
    try:
        return os.lseek(descriptor, 0, os.SEEK_DATA) < 0
    except OSError as wrong:
        return wrong.errno == errno.ENXIO


def sync_directory(path: Path) -> None:
    """Have the device hold the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_at(descriptor: int, content: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of it. Raises OSError."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _pack(place: _Written) -> bytes:
    fields = {"count": place.count, "file": place.file, **asdict(place.label)}
    text = json.dumps(fields).encode()
    return text.ljust(_TEXT_BYTES_MAX) + xxhash.xxh3_128(text).hexdigest().encode() + b"\n"


def _read_places(content: bytes) -> _Written | None:
    """Return the later of the places that are whole, None if neither is."""
    places = (_unpack(content[at : at + _PLACE_BYTES]) for at in (0, _PLACE_BYTES))
    return max((place for place in places if place is not None), key=lambda place: place.count, default=None)


def _unpack(content: bytes) -> _Written | None:
    text = content[:_TEXT_BYTES_MAX].rstrip()
    if content[_TEXT_BYTES_MAX : _TEXT_BYTES_MAX + _DIGEST_CHARS] != xxhash.xxh3_128(text).hexdigest().encode():
        return None
    try:
        fields = json.loads(text)
        file, count = str(fields.pop("file")), int(fields.pop("count"))
        parents = tuple((str(lineage), int(generation)) for lineage, generation in fields.pop("parents"))
        return _Written(file, count, Label(**fields, parents=parents))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # of another version
