"""Guests that tests make and that are closed at the end, what they say, and how one takes over from another."""

import threading
import time
from pathlib import Path

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.guests.riscv import RiscvGuest
from ftvm.units import Nanos

from .assembly import UART, addi, elf, jal, li, store, to_bytes

PROGRAMS = Path(__file__).parents[3] / "ftvm" / "guests" / "riscv" / "programs"
PATIENCE_S = 60
MEMORY = 8 << 20
BROADCAST, STATION = b"\xff" * 6, bytes.fromhex("020000000001")
WHO_HAS_KV = (
    BROADCAST
    + STATION
    + bytes.fromhex("0806 0001 0800 06 04 0001")
    + STATION
    + bytes([10, 77, 0, 1])
    + bytes(6)
    + bytes([10, 77, 0, 2])
)


class RealClock:
    def now(self) -> Nanos:
        return Nanos(time.monotonic_ns())


class Sink:
    """Keeps outputs, and lets a test wait for them."""

    def __init__(self) -> None:
        self.outputs: list[tuple[str, bytes]] = []
        self.log: list[LogRecord] = []
        self._changed = threading.Condition()

    def took_input(self, position: GuestPosition, channel: str, payload: bytes) -> None:
        self._log(LogKind.INPUT, position, channel=channel, payload=payload)

    def want_cut(self) -> None:
        raise AssertionError("a guest whose disk is memory waits for no cut")

    def warn(self, reason: str) -> None:
        raise AssertionError(reason)

    def may_wait(self, reason: str) -> bool:
        raise AssertionError(reason)

    def moved_clock(self, position: GuestPosition, amount: int) -> None:
        self._log(LogKind.CLOCK, position, amount=amount)

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        assert position is not None, "a guest that can be replayed says where it made an output"
        with self._changed:
            self.outputs.append((channel, payload))
            self._changed.notify_all()

    def _log(
        self, kind: LogKind, position: GuestPosition, *, amount: int = 0, channel: str = "", payload: bytes = b""
    ) -> None:
        index = len(self.log) + 1
        self.log.append(
            LogRecord(index=index, kind=kind, position=position, amount=amount, channel=channel, payload=payload)
        )

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outputs) >= count, PATIENCE_S), self.outputs

    def wait_for_text(self, text: bytes) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: text in self.console(), PATIENCE_S), self.console()

    def console(self) -> bytes:
        return b"".join(payload for channel, payload in self.outputs if channel == "console")


class Stable:
    """Makes guests and closes them."""

    def __init__(self) -> None:
        self.guests: list[RiscvGuest] = []

    def __call__(self, program: bytes | str | Path | None, **options: object) -> tuple[RiscvGuest, Sink]:
        options.setdefault("memory_bytes", MEMORY)
        guest = RiscvGuest(program, clock=RealClock(), **options)  # type: ignore[arg-type]
        self.guests.append(guest)
        sink = Sink()
        guest.attach(sink)
        return guest, sink

    def shipped(self, name: str, **options: object) -> tuple[RiscvGuest, Sink]:
        return self(PROGRAMS / f"{name}.elf", **options)


def wait_for_failure(guest: RiscvGuest, sink: Sink) -> str:
    """Wait for the end of a program whose last word is an output."""
    sink.wait_for(1)
    return wait_for_end(guest)


def wait_for_end(guest: RiscvGuest) -> str:
    for _ in range(PATIENCE_S * 100):
        if (failure := guest.failure()) is not None:
            return failure
        time.sleep(0.01)
    raise AssertionError("the program did not end")


def chatter() -> bytes:
    """A program that prints lines for ever."""
    return elf(to_bytes([*li(1, UART), addi(2, 0, ord("\n")), store(2, 1, size=1), jal(0, -4)]))


def takeover(old: RiscvGuest, new: RiscvGuest) -> None:
    """What replication amounts to: all memory, then the devices."""
    for source, target in zip(old.memory, new.memory, strict=True):
        target.buffer[:] = source.buffer
    new.load_devices(old.save_devices())
