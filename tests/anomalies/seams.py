"""Where a host touches what can fail: each kind of call is counted, and the Nth one made by one host fails.

The calls are replaced in the modules that make them, so that all above runs as it is.
"""

import errno
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Self

import pytest

from ftvm._native import memory as native_memory
from ftvm.arbiters import file as file_arbiter
from ftvm.capture import pages
from ftvm.checkpoint import Buffer
from ftvm.encode import apply
from ftvm.errors import TransportError
from ftvm.interfaces import Lane
from ftvm.transport.memory import MemoryTransport

MARK: Final = "injected"


@dataclass(slots=True)
class Fault:
    """Fails the `nth` call of one seam that `host` makes; if it `lasts`, all later ones, too, until it is healed."""

    seam: str
    host: str
    nth: int
    lasts: bool
    count: int = 0
    is_met: bool = False
    is_healed: bool = False
    running: str = ""
    calls: list[str] = field(default_factory=list)

    @contextmanager
    def on(self, host: str) -> Iterator[None]:
        """Count what is called now as called by `host`."""
        self.running = host
        try:
            yield
        finally:
            self.running = ""

    def strikes(self, seam: str, call: str) -> bool:
        """Count a call; tell whether it must fail."""
        if self.is_healed or (seam, self.running) != (self.seam, self.host):
            return False
        self.count += 1
        is_due = self.count >= self.nth if self.lasts else self.count == self.nth
        if is_due:
            self.is_met = True
            self.calls.append(call)
        return is_due

    def heal(self) -> None:
        """Let nothing fail any more."""
        self.is_healed = True

    def __str__(self) -> str:
        return f"{self.seam} {self.nth}{' and on' if self.lasts else ''} of {self.host}"


class _Faulty:
    """Stands for a module or object; the named callables may fail, all else is the real thing."""

    def __init__(
        self, real: Any, fault: Fault, seam: str, names: Sequence[str], fail: Callable[[str], NoReturn]
    ) -> None:
        self._real, self._fault, self._seam, self._names, self._fail = real, fault, seam, names, fail

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in self._names:
            return real

        def call(*args: Any, **options: Any) -> Any:
            if self._fault.strikes(self._seam, name):
                self._fail(name)
            return real(*args, **options)

        return call


def _fail_disk(call: str) -> NoReturn:
    raise OSError(errno.EIO, f"{MARK}: {call}")


def _fail_mapping(call: str) -> NoReturn:
    raise OSError(errno.ENOMEM, f"{MARK}: {call}")


def _fail_allocation(call: str) -> NoReturn:
    raise MemoryError(f"{MARK}: {call}")


def _disk(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    names = ("listdir", "stat", "open", "fsync", "link")
    patch.setattr(file_arbiter, "os", _Faulty(os, fault, "disk", names, _fail_disk))

    def faulty_open(fd: int, mode: str, buffering: int) -> Any:
        real = open(fd, mode, buffering=buffering)  # noqa: SIM115 - who asked for it closes it
        return _FaultyFile(real, fault)

    patch.setattr(file_arbiter, "open", faulty_open, raising=False)


class _FaultyFile:
    def __init__(self, real: Any, fault: Fault) -> None:
        self._real, self._fault = real, fault

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._real.close()

    def write(self, content: bytes) -> int:
        if self._fault.strikes("disk", "write"):
            return int(self._real.write(content[: len(content) // 2]))  # as a full disk does
        return int(self._real.write(content))


def _mapping(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    patch.setattr(pages, "mmap", _Faulty(mmap, fault, "mapping", ("mmap",), _fail_mapping))
    faulty = _Faulty(native_memory, fault, "mapping", ("sparse_memory",), _fail_mapping)
    for module in (pages, native_memory):
        patch.setattr(module, "sparse_memory", faulty.sparse_memory)


def _allocation(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    for module in (pages, apply, native_memory):
        real = vars(module)["ffi"]
        patch.setattr(module, "ffi", _Faulty(real, fault, "allocation", ("new",), _fail_allocation))

    def faulty_bytearray(size: int) -> bytearray:
        if fault.strikes("allocation", "bytearray"):
            _fail_allocation("bytearray")
        return bytearray(size)

    patch.setattr(pages, "bytearray", faulty_bytearray, raising=False)


def _send(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    real = MemoryTransport.send

    def send(self: MemoryTransport, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        if fault.strikes("full queue", "send"):
            return False
        if fault.strikes("send", "send"):
            raise TransportError(f"{MARK}: ZeroMQ cannot send")
        return real(self, peer, lane, frames, token)

    patch.setattr(MemoryTransport, "send", send)


SEAMS: Final = ("disk", "mapping", "allocation", "send", "full queue")


def install(patch: pytest.MonkeyPatch, fault: Fault) -> None:
    """Put the seams in place."""
    for seam in (_disk, _mapping, _allocation, _send):
        seam(patch, fault)
