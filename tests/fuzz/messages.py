"""Fuzzes the decoder of messages, guided by coverage: whatever comes is a message or one of the two errors promised.

    python -m tests.fuzz.messages [SECONDS, default 10] [FOLDER that keeps what reached new code]

Needs atheris (`pip install atheris`, CPython 3.11 on Linux). The seeds are made by the encoder, of every kind of
message. Each input is tried as it is, and with all digests made right again, or nothing would ever get past them. What
does decode must come out of the encoder as it went in.
"""

import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FunctionType

import atheris
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ftvm.checkpoint import Buffer, Checkpoint
from ftvm.config import Limits
from ftvm.encode import cache, codec, fields, headed, plain, stream, versions, wire
from ftvm.encode.messages import CacheDigests, CacheKept, Envelope, EpochPart, Message, SessionId
from ftvm.encode.versions import FLAT_SINCE
from ftvm.encode.wire import decode, encode
from ftvm.errors import BadFrame, VersionMismatch

from ..encode.forging import forged
from ..strategies import checkpoints, envelopes, messages

LIMITS = Limits()
SEEDS = 500
SETTINGS = settings(
    max_examples=SEEDS,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    deadline=None,
)
FRAMES_MAX = 8
OF_A_SESSION = (EpochPart, CacheDigests, CacheKept)
"""Messages of which version 1 cannot say all, or any."""
LENGTH = struct.Struct("<I")


def joined(frames: Sequence[Buffer]) -> bytes:
    """Return frames as one input."""
    return b"".join(LENGTH.pack(len(frame)) + bytes(frame) for frame in frames)


def parted(data: bytes) -> list[bytes]:
    """Return the frames of an input; a length beyond its end means all that is left."""
    frames: list[bytes] = []
    while len(data) >= LENGTH.size and len(frames) < FRAMES_MAX:
        (length,) = LENGTH.unpack_from(data)
        frames.append(data[LENGTH.size : LENGTH.size + length])
        data = data[LENGTH.size + length :]
    return frames


def try_one(data: bytes) -> None:
    """Decode; anything but a message or the promised errors is a finding."""
    frames = parted(data)
    for told in (frames, forged(frames)):
        try:
            decoded = decode(told, LIMITS)
        except (BadFrame, VersionMismatch):
            continue
        if decoded[0].session is None and isinstance(decoded[1], OF_A_SESSION):
            continue  # nobody sends one outside of a session: it would be in version 1, which cannot say all of them
        again = decode([bytes(frame) for frame in encode(*decoded)], LIMITS)
        if again != decoded:
            raise AssertionError(f"{decoded} was encoded as {again}")


def end_of_epoch(checkpoint: Checkpoint) -> EpochPart:
    return EpochPart(sequence=1, epoch=checkpoint.epoch, part=0, batch=None, checkpoint=checkpoint)


def write_seeds(folder: Path) -> None:
    """Have the encoder write messages of every kind, the same ones each time."""
    count = 0

    @seed(0)
    @SETTINGS
    @given(envelopes(), st.one_of(messages(FLAT_SINCE), messages(), checkpoints().map(end_of_epoch)))
    def write(envelope: Envelope, message: Message) -> None:
        is_whole = isinstance(message, EpochPart) and message.batch is not None and message.checkpoint is not None
        if is_whole or isinstance(message, CacheDigests | CacheKept):
            envelope = replace(envelope, session=SessionId(1, "x", 1, FLAT_SINCE))
        nonlocal count
        count += 1
        (folder / f"{count:04}").write_bytes(joined(encode(envelope, message)))

    write()


def instrument() -> None:
    """Have the decoder report what it reaches. (The import hook of atheris does not see an editable installation.)"""
    for module in (wire, headed, cache, codec, fields, plain, stream, versions):
        for thing in vars(module).values():
            if isinstance(thing, FunctionType) and thing.__module__ == module.__name__:
                atheris.instrument_func(thing)


def main() -> None:
    """Fuzz for a while."""
    instrument()
    seconds = sys.argv[1] if len(sys.argv) > 1 else "10"
    with tempfile.TemporaryDirectory() as seeds:
        write_seeds(Path(seeds))
        folders = [*sys.argv[2:3], seeds]
        options = [f"-max_total_time={seconds}", "-max_len=20000", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", *folders], try_one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
