"""An active that turns bad in the middle of a session, seen by a whole standby: each lie is named, none is applied.

Two drivers over the in-process transport; a tap on the wire changes what the active sends. The standby's memory stays
what it was, bit for bit; once the active is honest again the pair is protected again.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import lz4.block
import pytest

from ftvm._native.memory import batch_digest
from ftvm.checkpoint import Buffer, Checkpoint, PageBatch
from ftvm.config import Limits
from ftvm.encode.messages import EpochPart, Leave
from ftvm.encode.wire import decode, encode
from ftvm.events import PeerMisbehaved, TookOver
from ftvm.interfaces import Lane
from ftvm.protocol.view import LinkState, Role
from ftvm.testing.pair import Pair

LIMITS = Limits(batch_bytes=1 << 16, copy_rest_pages=4)
Lie = Callable[[EpochPart], EpochPart | None]


class Tap:
    """Sits on the wire from a to b. While there is a `lie`, epochs go through it; it returns what is sent instead."""

    def __init__(self, pair: Pair) -> None:
        self.lie: Lie | None = None
        self.lies = 0
        self._send = pair.a.transport.send
        pair.a.transport.send = self.send  # type: ignore[method-assign]

    def send(self, peer: str, lane: Lane, frames: list[Buffer], token: int | None = None) -> bool:
        envelope, message = decode(list(map(bytes, frames)), LIMITS)
        if self.lie is None or not isinstance(message, EpochPart):
            return self._send(peer, lane, frames, token)
        told = self.lie(message)
        self.lies += told is not message
        if told is None:
            return False
        was_sent = self._send(peer, lane, encode(envelope, told), None)
        return was_sent and token is None  # the tap never gives back what is lent: then say that it was not taken


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair(limits=LIMITS).protected()
    yield pair
    pair.close()


def with_batch(message: EpochPart, **changes: object) -> EpochPart:
    """Change the batch of a part, and seal it as an attacker would: with the digest that belongs to it."""
    batch = message.batch
    assert batch is not None
    changed = replace(batch, **changes)  # type: ignore[arg-type]
    digest = batch_digest(changed.indices, changed.lengths, changed.payload)
    return replace(message, batch=replace(changed, digest=digest))


def on_pages(lie: Callable[[EpochPart, PageBatch], EpochPart]) -> Lie:
    """A lie about pages; ends pass."""

    def told(message: EpochPart) -> EpochPart:
        if message.batch is not None:
            return lie(message, message.batch)
        return message

    return told


def on_end(lie: Callable[[Checkpoint], Checkpoint]) -> Lie:
    """A lie about the end of an epoch; pages pass."""

    def told(message: EpochPart) -> EpochPart:
        if message.checkpoint is not None:
            return replace(message, checkpoint=lie(message.checkpoint))
        return message

    return told


def index_beyond(part: EpochPart, batch: PageBatch) -> EpochPart:
    return with_batch(part, indices=bytes(batch.indices[:-4]) + (24).to_bytes(4, "little"))


def index_that_wraps(part: EpochPart, batch: PageBatch) -> EpochPart:
    return with_batch(part, indices=bytes(batch.indices[:-4]) + b"\xff\xff\xff\xff")


def falling_indices(part: EpochPart, batch: PageBatch) -> EpochPart:
    cells = memoryview(bytes(batch.indices)).cast("I")
    return with_batch(part, indices=b"".join(cell.to_bytes(4, "little") for cell in reversed(cells)))


def length_beyond(part: EpochPart, batch: PageBatch) -> EpochPart:
    return with_batch(part, lengths=b"\xff\xff" * batch.count)


def random_deltas(part: EpochPart, batch: PageBatch) -> EpochPart:
    return with_batch(part, payload=bytes(255 - byte for byte in bytes(batch.payload)))


def bomb(part: EpochPart, _: PageBatch) -> EpochPart:
    packed = lz4.block.compress(bytes(64 << 20), store_size=False)
    return with_batch(part, payload=packed[: LIMITS.batch_bytes], unpacked_bytes=LIMITS.batch_bytes)


def one_bit(part: EpochPart, batch: PageBatch) -> EpochPart:
    flipped = bytearray(bytes(batch.payload))
    flipped[len(flipped) // 2] ^= 1
    return replace(part, batch=replace(batch, payload=bytes(flipped)))


def other_memory(end: Checkpoint) -> Checkpoint:
    return replace(end, memory_digest=end.memory_digest ^ 1)


def later_base(end: Checkpoint) -> Checkpoint:
    return replace(end, base=end.base + 1)


def outputs_of_the_future(end: Checkpoint) -> Checkpoint:
    return replace(end, output_next=end.output_next + 1000)


LIES: dict[str, tuple[Lie, str]] = {
    "a page index beyond the memory": (on_pages(index_beyond), "BadFrame"),
    "a page index that wraps": (on_pages(index_that_wraps), "BadFrame"),
    "indices that fall": (on_pages(falling_indices), "BadFrame"),
    "lengths beyond the payload": (on_pages(length_beyond), "BadFrame"),
    "deltas of random bytes": (on_pages(random_deltas), "BadFrame"),
    "a decompression bomb": (on_pages(bomb), "BadFrame"),
    "one flipped bit": (on_pages(one_bit), "DigestMismatch"),
    "the digest of another memory": (on_end(other_memory), "DigestMismatch"),
    "an epoch of another base": (on_end(later_base), "BadFrame"),
    "outputs of the future": (on_end(outputs_of_the_future), "BadFrame"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_named_nothing_of_it_is_applied_and_the_pair_recovers(pair: Pair, name: str) -> None:
    lie, error = LIES[name]
    tap = Tap(pair)
    pair.until(lambda: not pair.a.active.session.in_flight)  # type: ignore[union-attr]
    pair.run(4)
    memory = bytes(pair.b.guest.memory[0].buffer)
    epoch = pair.b.standby.epoch

    tap.lie = lie
    pair.until(lambda: pair.b.told(PeerMisbehaved), 500)
    after = bytes(pair.b.guest.memory[0].buffer)
    committed = pair.b.standby.epoch
    tap.lie = None
    pair.until(lambda: pair.a.active.link is LinkState.NONE)
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert tap.lies > 0
    assert pair.b.told(PeerMisbehaved)[0].error.startswith(f"{error}: ")
    assert (after, committed) == (memory, epoch)
    assert pair.b.role is Role.STANDBY


def test_half_a_checkpoint_and_then_silence_leaves_the_standby_with_the_last_whole_one(pair: Pair) -> None:
    tap = Tap(pair)

    def first_half(message: EpochPart) -> EpochPart | None:
        """Send the pages of one epoch without its end, and nothing more."""
        return replace(message, checkpoint=None) if tap.lies == 0 and message.batch is not None else None

    tap.lie = first_half
    pair.run(60)
    epoch, digest = pair.b.standby.epoch, pair.b.standby.memory_digest
    assert pair.b.standby.staged_bytes > 0

    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert pair.b.driver._memory.memory_digest == digest
    assert epoch is not None
    assert pair.b.told(TookOver)[0].epoch == epoch


def test_messages_out_of_order_within_the_window_change_nothing(pair: Pair) -> None:
    tap = Tap(pair)
    kept: list[EpochPart] = []

    def swap(message: EpochPart) -> EpochPart | None:
        """Keep one back and send it behind the next: the sender repeats what was kept."""
        kept.append(message)
        return message if len(kept) % 3 else None

    tap.lie = swap
    pair.run(800)
    tap.lie = None
    pair.run(600)

    assert tap.lies > 3
    assert pair.b.told(PeerMisbehaved) == []
    assert pair.a.active.link is LinkState.PROTECTED
    assert pair.a.driver.status(pair.clock.now()).digests_compared > 3


def test_messages_of_an_earlier_session_are_dropped(pair: Pair) -> None:
    """A replay: well-formed, of the right peer, sealed with the right digests, but said before."""
    recorded: list[tuple[str, Lane, list[Buffer]]] = []
    send = pair.a.transport.send

    def record(peer: str, lane: Lane, frames: list[Buffer], token: int | None = None) -> bool:
        recorded.append((peer, lane, list(map(bytes, frames))))
        return send(peer, lane, frames, token)

    pair.a.transport.send = record  # type: ignore[assignment, method-assign]
    pair.run(100)
    pair.a.transport.send = send  # type: ignore[method-assign]
    pair.a.hear(Leave(reason="a test"))
    pair.until(lambda: pair.a.active.link is LinkState.NONE)
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)
    pair.until(lambda: not pair.a.active.session.in_flight)  # type: ignore[union-attr]
    before = pair.b.standby.epoch, pair.b.standby.memory_digest

    for peer, lane, frames in recorded:
        assert pair.a.transport.send(peer, lane, frames)
    pair.b.step()

    assert any(isinstance(decode(frames, LIMITS)[1], EpochPart) for _, _, frames in recorded)
    assert (pair.b.standby.epoch, pair.b.standby.memory_digest) == before
    assert pair.a.active.link is LinkState.PROTECTED


def test_lies_that_go_on_cost_a_first_copy_ever_more_rarely(pair: Pair) -> None:
    tap = Tap(pair)
    tap.lie = LIES["one flipped bit"][0]
    pair.run(2_000)
    early = len(pair.b.told(PeerMisbehaved))

    pair.run(2_000)

    assert early > 2
    assert len(pair.b.told(PeerMisbehaved)) - early < early / 2
