"""How often the thread of a built-in machine enters ftvm's Python, and the C core, to answer one request.

The guest is the key-value server, the request an ARP question that comes while it waits. The sink is the test's own and
counts for nothing.
"""

import sys
import threading
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Final

import ftvm
from ftvm.checkpoint import OUTPUT_ROW, GuestPosition
from ftvm.runtime.sink import PackedTurn

FTVM: Final = str(Path(ftvm.__file__).parent)
REQUESTS: Final = 20
PATIENCE_S: Final = 60
BROADCAST, STATION, GUEST = b"\xff" * 6, bytes.fromhex("020000000001"), bytes([10, 77, 0, 2])
REQUEST: Final = (
    BROADCAST
    + STATION
    + bytes.fromhex("0806 0001 0800 06 04 0001")
    + STATION
    + bytes([10, 77, 0, 1])
    + bytes(6)
    + GUEST
)


class CountingSink:
    """Keeps what had been called when each output came, and lets who asks wait for the next one."""

    def __init__(self, calls: Counter[str]) -> None:
        self.seen: list[Counter[str]] = []
        self._calls = calls
        self._said = threading.Semaphore(0)

    def wait(self) -> None:
        assert self._said.acquire(timeout=PATIENCE_S), "the guest does not answer"

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        del channel, payload, position
        self.seen.append(Counter(self._calls))
        self._said.release()

    def hand_on(self, turn: PackedTurn) -> None:
        for _ in range(len(turn.packed(1, 1)[1].rows) // OUTPUT_ROW.size):
            self.emit("", b"")

    def took_input(self, *_: Any) -> None: ...

    def moved_clock(self, *_: Any) -> None: ...

    def want_cut(self) -> None: ...

    def warn(self, *_: Any) -> None: ...

    def may_wait(self, reason: str) -> bool:
        raise AssertionError(reason)


def calls_of_a_request() -> Counter[str]:
    """Return what the guest's thread calls for one request: the median of many, as one may be taken in two turns."""
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, called: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(FTVM):
            calls[frame.f_code.co_qualname] += 1
        elif event == "c_call" and getattr(called, "__name__", "").startswith("ftvm_"):
            calls[called.__name__] += 1

    guest = ftvm.RiscvGuest(ftvm.read_program("kv"), clock=ftvm.MonotonicClock(), memory_bytes=8 << 20)
    sink = CountingSink(calls)
    guest.attach(sink)
    with closing(guest):
        threading.setprofile(count)
        try:
            guest.resume()  # its thread begins
        finally:
            threading.setprofile(None)
        sink.wait()  # its greeting
        sink.wait()  # its announcement
        for _ in range(REQUESTS):
            guest.deliver("net0", REQUEST)
            sink.wait()
    found = [after - before for before, after in pairwise(sink.seen[2:])]
    return sorted(found, key=Counter.total)[len(found) // 2]


if __name__ == "__main__":
    for name, times in calls_of_a_request().most_common():
        sys.stdout.write(f"{times:4} {name}\n")
