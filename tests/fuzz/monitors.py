"""Fuzzes what a monitor says, guided by coverage: whatever comes is a message, or the one error promised.

    python -m tests.fuzz.monitors [SECONDS, default 10] [FOLDER that keeps what reached new code]

Needs atheris (`pip install atheris`, CPython 3.11 on Linux). The seeds are one message of each kind.
"""

import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FunctionType

import atheris

from ftvm.encode import fields
from ftvm.errors import BadFrame
from ftvm.guests.vmm import messages
from ftvm.guests.vmm.messages import FrameReader, decode, decode_hello, frame, read_bitmaps

PAYLOAD_BYTES_MAX = 1 << 16
SEEDS = (
    frame(["hello", 1, "kv", "1.0", "words", [["ram", 8, 4096]], "bitmap", True]),
    frame(["paused", 1, ""]),
    frame(["saved", 2, ""], b"devices"),
    frame(["loaded", 3, "another machine"]),
    frame(["written", 4, ""], bytes(8)),
    frame(["output", 1, "net0"], b"frame"),
    frame(["ended", "shutdown"]) + frame(["failed", "triple fault"]),
)


def try_one(data: bytes) -> None:
    """Take it as a connection's bytes, cut in two, and as bitmaps; anything but BadFrame is a finding."""
    reader = FrameReader(PAYLOAD_BYTES_MAX)
    with suppress(BadFrame):
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            for header, payload in reader.take(piece):
                for read in (decode_hello, decode):
                    with suppress(BadFrame):
                        read(header, payload)
    with suppress(BadFrame):
        read_bitmaps(data, [len(data) * 8 - 1])


def main() -> None:
    """Fuzz for a while."""
    for module in (messages, fields):
        for thing in [*vars(module).values(), *vars(FrameReader).values()]:
            if isinstance(thing, FunctionType) and thing.__module__ == module.__name__:
                atheris.instrument_func(thing)
    seconds = sys.argv[1] if len(sys.argv) > 1 else "10"
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(SEEDS):
            (Path(seeds) / str(number)).write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=20000", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", *sys.argv[2:3], seeds], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
