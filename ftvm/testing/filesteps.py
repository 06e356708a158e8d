"""Records what a piece of code does to the files below one folder: writes, sizes, names, and what it syncs.

`recorded` replaces the functions of `os`, and `open`, while it lasts. Each call does its work as ever; if it concerns a
file below the folder, it is noted as one step or a few, in the order in which the file system saw them, whatever thread
made the call. powercut.py works out from the steps what a power cut may leave.

What is not replaced (mmap, sendfile, os.symlink, dir_fd, other processes) cannot be noted. So the steps are compared
with the folder at the end: a change that was made past them is an error, not a hole in the proof.
"""

import builtins
import fcntl
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

from ftvm._native import blockstore
from ftvm.errors import ConfigError

__all__ = ["Created", "Marked", "Named", "Resized", "Step", "StepLog", "Synced", "Wrote", "recorded"]

ROOT: Final = 0
"""The number of the folder itself."""

_WRITING: Final = frozenset("wax+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A file or folder came to be. It has a name only by the step `Named`."""

    file: int
    mode: int
    is_folder: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Names of one folder changed, all at once: each now leads to a file, or to nothing."""

    folder: int
    names: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrote:
    """Bytes were written at an offset."""

    file: int
    offset: int
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """A file was cut, or made longer with zeros."""

    file: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeSet:
    """The rights of a file changed."""

    file: int
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """fsync or fdatasync of a file or folder returned."""

    file: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Nothing happened on the disk; who runs the code notes what it has promised by now."""

    what: object


Step = Created | Named | Wrote | Resized | ModeSet | Synced | Marked


class StepLog:
    """The steps so far. Safe to use from several threads."""

    def __init__(self, root: Path) -> None:
        """Watch `root`, an existing folder, and take what it holds as durable."""
        self.root = root.resolve(strict=True)
        self.steps: list[Step] = []
        self.lock = threading.RLock()
        self._numbers: dict[tuple[int, int], int] = {}
        self._count = 0
        self._adopt(self.root)
        self.durable = len(self.steps)

    def mark(self, what: object) -> None:
        """Note that from here on `what` is promised, such as an epoch that was acknowledged."""
        with self.lock:
            self.steps.append(Marked(what=what))

    def number_of(self, found: os.stat_result) -> int | None:
        """Return a file's number; None if it is not below the folder."""
        return self._numbers.get((found.st_dev, found.st_ino))

    def create(self, found: os.stat_result) -> int:
        """Give a new file or folder its number."""
        number, self._count = self._count, self._count + 1
        self._numbers[found.st_dev, found.st_ino] = number  # a number of the system may be one of a file long gone
        mode = stat.S_IMODE(found.st_mode)
        self.steps.append(Created(file=number, mode=mode, is_folder=stat.S_ISDIR(found.st_mode)))
        return number

    def place_of(self, path: Any) -> tuple[int, str] | None:
        """Return the number of the folder in which a path lies, and its name there; None if that is elsewhere."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return None
        whole = Path(os.fsdecode(path))
        try:
            folder = self.number_of(os.stat(whole.parent))
        except OSError:
            return None
        return None if folder is None else (folder, whole.name)

    def name(self, place: tuple[int, str], file: int | None) -> None:
        """Note that a name leads to a file now, or to nothing."""
        self.steps.append(Named(folder=place[0], names=((place[1], file),)))

    def _adopt(self, path: Path) -> int:
        known = self.number_of(path.lstat())
        if known is not None:
            return known
        number = self.create(path.lstat())
        if path.is_dir():
            for child in sorted(path.iterdir()):
                self.name((number, child.name), self._adopt(child))
        else:
            self.steps.append(Wrote(file=number, offset=0, content=path.read_bytes()))
        return number


@contextmanager
def recorded(log: StepLog) -> Iterator[StepLog]:
    """Note the steps of all code that runs meanwhile."""
    calls = _Calls(log)
    with ExitStack() as stack:
        for name in calls.names():
            stack.enter_context(mock.patch.object(os, name, getattr(calls, name)))
        stack.enter_context(mock.patch.object(blockstore, "make_zero", calls.zero))
        for module in (builtins, io):
            stack.enter_context(mock.patch.object(module, "open", calls.open_file))
        yield log


class _Calls:
    """The functions that stand in for those of `os`. Each has the name of the one that it does the work with."""

    def __init__(self, log: StepLog) -> None:
        self._log = log
        self._os: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in self.names()}
        self._open, self._zero = io.open, blockstore.make_zero

    @staticmethod
    def names() -> list[str]:
        return [
            name for name in vars(_Calls) if not name.startswith("_") and name not in ("names", "open_file", "zero")
        ]

    # --- names -----------------------------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        with self._log.lock:
            place = self._log.place_of(path) if flags & (os.O_CREAT | os.O_TRUNC) else None
            is_new = place is not None and not os.path.exists(path)
            descriptor: int = self._os["open"](path, flags, mode, **options)
            if place is None:
                return descriptor
            found = os.fstat(descriptor)
            if is_new:
                self._log.name(place, self._log.create(found))
            elif flags & os.O_TRUNC:
                self._resize(found)
            return descriptor

    def mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        with self._log.lock:
            self._os["mkdir"](path, mode, **options)
            place = self._log.place_of(path)
            if place is not None:
                self._log.name(place, self._log.create(os.stat(path)))

    def link(self, source: Any, target: Any, **options: Any) -> None:
        with self._log.lock:
            self._os["link"](source, target, **options)
            place, number = self._log.place_of(target), self._log.number_of(os.stat(target))
            if place is not None:
                self._log.name(place, number)

    def unlink(self, path: Any, **options: Any) -> None:
        with self._log.lock:
            self._os["unlink"](path, **options)
            place = self._log.place_of(path)
            if place is not None:
                self._log.name(place, None)

    def remove(self, path: Any, **options: Any) -> None:
        self.unlink(path, **options)

    def rename(self, source: Any, target: Any, **options: Any) -> None:
        with self._log.lock:
            before, after = self._log.place_of(source), self._log.place_of(target)
            self._os["rename"](source, target, **options)
            if (before is None and after is None) or os.path.lexists(source):
                return  # elsewhere; or two names of one file, which a rename leaves as they are
            if before is None or after is None or before[0] != after[0]:
                raise ConfigError(f"a rename between two folders cannot be modelled: {source} to {target}")
            number = self._log.number_of(os.stat(target))
            self._log.steps.append(Named(folder=before[0], names=((before[1], None), (after[1], number))))

    def replace(self, source: Any, target: Any, **options: Any) -> None:
        self.rename(source, target, **options)

    # --- content ---------------------------------------------------------------------------------------------------

    def write(self, descriptor: int, content: Any) -> int:
        with self._log.lock:
            number = self._log.number_of(os.fstat(descriptor))
            offset = 0 if number is None else _position(descriptor)
            written: int = self._os["write"](descriptor, content)
            self._wrote(number, offset, bytes(memoryview(content).cast("B")[:written]))
            return written

    def writev(self, descriptor: int, parts: Any) -> int:
        return self.write(descriptor, b"".join(parts))

    def pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        with self._log.lock:
            written: int = self._os["pwrite"](descriptor, content, offset)
            number = self._log.number_of(os.fstat(descriptor))
            self._wrote(number, offset, bytes(memoryview(content).cast("B")[:written]))
            return written

    def copy_file_range(self, source: int, target: int, count: int, at: int, offset: int) -> int:
        with self._log.lock:
            copied: int = self._os["copy_file_range"](source, target, count, at, offset)
            self._wrote(self._log.number_of(os.fstat(target)), offset, os.pread(target, copied, offset))
            return copied

    def zero(self, descriptor: int, length: int, offset: int) -> None:
        with self._log.lock:
            self._zero(descriptor, length, offset)
            self._wrote(self._log.number_of(os.fstat(descriptor)), offset, bytes(length))

    def pwritev(self, descriptor: int, parts: Any, offset: int, _flags: int = 0) -> int:
        return self.pwrite(descriptor, b"".join(parts), offset)

    def ftruncate(self, descriptor: int, length: int) -> None:
        with self._log.lock:
            self._os["ftruncate"](descriptor, length)
            self._resize(os.fstat(descriptor))

    def truncate(self, path: Any, length: int) -> None:
        with self._log.lock:
            self._os["truncate"](path, length)
            self._resize(os.stat(path))

    def fchmod(self, descriptor: int, mode: int) -> None:
        with self._log.lock:
            self._os["fchmod"](descriptor, mode)
            self._set_mode(os.fstat(descriptor))

    def chmod(self, path: Any, mode: int, **options: Any) -> None:
        with self._log.lock:
            self._os["chmod"](path, mode, **options)
            self._set_mode(os.stat(path))

    # --- what is made durable --------------------------------------------------------------------------------------

    def fsync(self, descriptor: int) -> None:
        with self._log.lock:
            self._os["fsync"](descriptor)
            number = self._log.number_of(os.fstat(descriptor))
            if number is not None:
                self._log.steps.append(Synced(file=number))

    def fdatasync(self, descriptor: int) -> None:
        self.fsync(descriptor)

    # --- files of Python -------------------------------------------------------------------------------------------

    def open_file(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not _WRITING & set(mode) or not self._is_below(file):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        kind = "".join(letter for letter in mode if letter not in "bt")
        raw = _RecordedFile(file, kind, closefd, opener or self._open_for_file)
        if "b" in mode and not buffering:
            return raw
        buffer: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return buffer if "b" in mode else io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)

    def _is_below(self, file: Any) -> bool:
        if isinstance(file, int):
            return self._log.number_of(os.fstat(file)) is not None
        return self._log.place_of(file) is not None

    @staticmethod
    def _open_for_file(path: Any, flags: int) -> int:
        return os.open(path, flags, 0o666)

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _wrote(self, number: int | None, offset: int, content: bytes) -> None:
        if number is not None and content:
            self._log.steps.append(Wrote(file=number, offset=offset, content=content))

    def _resize(self, found: os.stat_result) -> None:
        number = self._log.number_of(found)
        if number is not None:
            self._log.steps.append(Resized(file=number, size_bytes=found.st_size))

    def _set_mode(self, found: os.stat_result) -> None:
        number = self._log.number_of(found)
        if number is not None:
            self._log.steps.append(ModeSet(file=number, mode=stat.S_IMODE(found.st_mode)))


class _RecordedFile(io.FileIO):
    """A file of Python whose writes go through `os`, where they are noted."""

    def __init__(self, file: Any, mode: str, closefd: bool, opener: Any) -> None:
        super().__init__(file, mode, closefd, None if isinstance(file, int) else opener)

    def write(self, content: Any) -> int:
        return os.write(self.fileno(), content)

    def truncate(self, size: int | None = None) -> int:
        length = self.tell() if size is None else size
        os.ftruncate(self.fileno(), length)
        return length


def _position(descriptor: int) -> int:
    """Return where the next write of a descriptor goes."""
    appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
    return os.fstat(descriptor).st_size if appends else os.lseek(descriptor, 0, os.SEEK_CUR)
