"""Sees what a disk's store in C is about to do to the image, and decides about it: when, and whether it fails."""

import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ftvm.testing import PowerCuts
from ftvm.testing.filesteps import Synced, Wrote

WRITE, ZERO, SYNC = 1, 2, 3
_TOLD: Final = struct.Struct("=IIQ")
_PATIENCE_SECONDS: Final = 20


@dataclass(frozen=True, slots=True)
class Change:
    kind: int
    offset: int
    length: int
    content: bytes = field(repr=False)


def let_pass(_change: Change) -> int:
    return 0


class Witness:
    """`decide` returns 0, or the errno to fail with; it is asked in one thread for writes, and in one for syncs."""

    def __init__(self, decide: Callable[[Change], int] = let_pass) -> None:
        self.decide = decide
        self.seen: list[Change] = []
        pairs = [socket.socketpair() for _ in range(2)]
        self._ends = [end for pair in pairs for end in pair]
        self.descriptors = (pairs[0][1].fileno(), pairs[1][1].fileno())
        self._threads = [threading.Thread(target=self._watch, args=(ours,), daemon=True) for ours, _ in pairs]
        for thread in self._threads:
            thread.start()

    def kinds(self) -> list[int]:
        return [change.kind for change in self.seen]

    def close(self) -> None:
        """End it, once the disk is closed."""
        for end in self._ends:
            end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()

    def _watch(self, end: socket.socket) -> None:
        while (told := end.recv(_TOLD.size, socket.MSG_WAITALL)) != b"":
            kind, length, offset = _TOLD.unpack(told)
            content = end.recv(length, socket.MSG_WAITALL) if kind == WRITE else b""
            change = Change(kind, offset, length, content)
            self.seen.append(change)
            end.send(bytes([self.decide(change)]))


def noted(cuts: PowerCuts, change: Change, status: os.stat_result) -> None:
    """Add what C is about to do to an image to the recorded steps; `status` is the file's."""
    log = cuts._log
    with log.lock:
        number = log.number_of(status)
        assert number is not None
        if change.kind == SYNC:
            log.steps.append(Synced(file=number))
        else:
            content = change.content or bytes(change.length)
            log.steps.append(Wrote(file=number, offset=change.offset, content=content))


class Gate:
    """A device that syncs when a test says so, and fails when it says so."""

    def __init__(self) -> None:
        self.error = 0
        self.is_asked = threading.Event()
        self._permits = threading.Semaphore(0)

    def __call__(self, change: Change) -> int:
        if change.kind != SYNC:
            return 0
        self.is_asked.set()
        self._permits.acquire(timeout=_PATIENCE_SECONDS)  # a test that fails must end, too
        return self.error

    def permit(self, count: int = 1) -> None:
        self._permits.release(count)
