"""Monitors for tests: the tiny one of examples/vmm, built; and one in Python that says what a test has it say."""

import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from ftvm.guests.vmm import MonitorDoor, VmmGuest
from ftvm.guests.vmm.messages import FrameReader, frame
from ftvm.testing.transcript import Transcript

SOURCES: Final = Path(__file__).parents[3] / "examples" / "vmm"
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
PAGES: Final = 8
PATIENCE_S: Final = 60

FRAME: Final = struct.Struct("<6s6s2scQIQ")
_MASK: Final = 2**64 - 1


def build(shared: Path, *, is_sanitized: bool = False) -> Path:
    """Return the tiny monitor, built once for all processes that test; skips where there is no compiler."""
    if shutil.which("gcc") is None or shutil.which("make") is None:
        pytest.skip("needs gcc and make")
    out = shared / ("vmm-sanitized" if is_sanitized else "vmm")
    with open(shared / "vmm.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        extra = ["SANITIZE=1", "CFLAGS=-O1"] if is_sanitized else []
        subprocess.run(["make", "-s", "-C", SOURCES, f"OUT={out}", "CC=gcc", *extra], check=True, timeout=300)
    return out / "monitor"


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def tick_lines(count: int) -> list[str]:
    """Compute what the tiny monitor's guest says on its console, from its birth on, if nobody talks to it."""
    table, work = 128 * 512, 384 * 512
    memory = {index: index * 0x9E3779B97F4A7C15 & _MASK for index in range(512)}
    seed, total, lines = 88172645463325252, 0, []
    assert table == 65536
    for tick in range(1, count + 1):
        for _ in range(128):
            seed ^= seed << 13 & _MASK
            seed ^= seed >> 7
            seed ^= seed << 17 & _MASK
            index = seed % work
            total = (total ^ memory.get(index, 0) ^ seed) * 0x100000001B3 & _MASK
            memory[index] = seed
        lines.append(f"tick {tick} sum {total:#x}\n")
    return lines


def ticks_in(text: str) -> list[str]:
    return re.findall(r"tick \d+ sum 0x[0-9a-f]+\n", text)


def request(operation: bytes, number: int, key: int, value: int = 0) -> bytes:
    """Return a frame for the tiny monitor's guest: b"P" puts, b"G" gets."""
    return FRAME.pack(b"\2" * 6, b"\4" * 6, b"\x88\xb5", operation, number, key, value)


def reply(payload: bytes) -> tuple[bytes, int, int, int] | None:
    """Return operation, number, key and value of an answer; None if it is no such frame."""
    if len(payload) != FRAME.size or payload[12:14] != b"\x88\xb5":
        return None
    _, _, _, operation, number, key, value = FRAME.unpack(payload)
    return operation, number, key, value


def memfd(pages: int = PAGES, seals: int = SEALS, flags: int = 0) -> int:
    descriptor = os.memfd_create("fake", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC | flags)
    os.ftruncate(descriptor, pages * 4096)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def hello(
    *,
    version: object = 1,
    kind: object = "fake",
    software: object = "1.0",
    machine: object = "words",
    regions: object = (("ram", PAGES, 4096),),
    tracking: object = "compare",
    stops: object = False,
) -> list[Any]:
    return ["hello", version, kind, software, machine, regions, tracking, stops]


class FakeMonitor:
    """One end of a connection that says what it is told to. `heard` are the requests that came."""

    def __init__(self, path: str | Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self.heard: list[tuple[str, list[Any], bytes]] = []
        self._reader = FrameReader(32 << 20)
        self._frames: list[tuple[bytes, bytes]] = []
        self._thread: threading.Thread | None = None

    def greet(self, header: Sequence[Any], descriptors: Sequence[int], payload: bytes = b"") -> None:
        """Say hello and close what was passed."""
        socket.send_fds(self.socket, [frame(header, payload)], list(descriptors))
        for descriptor in descriptors:
            os.close(descriptor)

    def say(self, *header: Any, payload: bytes = b"") -> None:
        self.socket.sendall(frame(header, payload))

    def hear(self) -> tuple[str, list[Any], bytes] | None:
        """Return the next message of ftvm, None when the connection has ended."""
        while not self._frames:
            try:
                piece = self.socket.recv(65536)
            except ConnectionResetError:
                return None
            if not piece:
                return None
            self._frames.extend(self._reader.take(piece))
        header, payload = self._frames.pop(0)
        name, *fields = msgpack.unpackb(header)
        self.heard.append((name, fields, payload))
        return self.heard[-1]

    def serve(self, **answers: Callable[[int, bytes], None]) -> None:
        """From now on answer as a sound monitor would, or as these functions of (number, payload) do."""

        def main() -> None:
            sound: dict[str, Callable[[int, bytes], None]] = {
                "pause": lambda number, _: self.say("paused", number, ""),
                "save": lambda number, _: self.say("saved", number, "", payload=b"devices"),
                "load": lambda number, _: self.say("loaded", number, ""),
                "dirty": lambda number, _: self.say("written", number, "", payload=bytes(8)),
                **answers,
            }
            while (told := self.hear()) is not None:
                name, fields, payload = told
                if name in sound:
                    try:
                        sound[name](fields[0] if fields else 0, payload)
                    except OSError:
                        return

        self._thread = threading.Thread(target=main, daemon=True)
        self._thread.start()

    def make_guest(self, door: MonitorDoor, **options: Any) -> VmmGuest:
        """Return the guest of this monitor, which says that its memory is ready."""

        def welcome() -> None:
            while (told := self.hear()) is not None and told[0] != "pause":
                assert told[0] == "welcome"
            self.say("paused", 1, "")

        answering = threading.Thread(target=welcome)
        answering.start()
        try:
            return VmmGuest(door, **options)
        finally:
            answering.join(PATIENCE_S)

    def names(self) -> list[str]:
        return [name for name, _, _ in self.heard]

    def close(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            assert self.socket.fileno() >= 0
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
        self.socket.close()


def wait_until(is_true: Callable[[], object], what: str) -> None:
    for _ in range(PATIENCE_S * 100):
        if is_true():
            return
        threading.Event().wait(0.01)
    raise AssertionError(f"never: {what}")


def resumed(guest: VmmGuest) -> Transcript:
    sink = Transcript()
    guest.attach(sink)
    guest.resume()
    return sink
