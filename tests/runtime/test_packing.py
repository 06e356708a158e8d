"""Batches are packed when that makes them arrive sooner, and what a peer packs wrongly harms nothing."""

from array import array
from dataclasses import replace

from ftvm._native.memory import batch_digest
from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.encode.compress import unpack_batch
from ftvm.runtime.packing import Packer
from ftvm.units import Nanos

LIMITS = Limits(batch_bytes=1 << 16)
MS = 1_000_000


class Clock:
    """Moves only when told, but for a step at each look: packing takes some time."""

    def __init__(self) -> None:
        self.time = -5 * MS

    def now(self) -> Nanos:
        self.time += 1000
        return Nanos(self.time)


def batch(number: int) -> PageBatch:
    payload = (b"%8d" % number) * (LIMITS.batch_bytes // 8 - 600) + bytes(range(256)) * 4
    indices, lengths = array("I", [number]).tobytes(), array("H", [4000]).tobytes()
    digest = batch_digest(indices, lengths, payload)
    return PageBatch(count=1, indices=indices, lengths=lengths, payload=payload, digest=digest, buffer=number)


def test_the_first_copy_is_always_packed_and_comes_out_as_it_was() -> None:
    packer = Packer(LIMITS, Clock())

    packed = packer.pack(batch(1), is_first_copy=True)

    assert len(packed.payload) < len(batch(1).payload) // 2
    assert unpack_batch(packed, LIMITS) == batch(1)
    assert packed.buffer == 1


def test_epochs_are_not_packed_while_nothing_is_known_of_the_link() -> None:
    packer = Packer(LIMITS, Clock())

    assert packer.pack(batch(1), is_first_copy=False) == batch(1)


def through_link(bytes_per_second: float) -> Packer:
    clock = Clock()
    packer = Packer(LIMITS, clock)
    for number in range(30):
        sent = packer.pack(batch(number), is_first_copy=False)
        clock.time += round(sent.size_bytes / bytes_per_second * 1e9)
        packer.acknowledged((batch(number),))
    return packer


def test_a_slow_link_has_epochs_packed() -> None:
    assert through_link(2e6).pack(batch(99), is_first_copy=False).unpacked_bytes


def test_a_fast_link_leaves_them_as_they_are() -> None:
    assert not through_link(20e9).pack(batch(99), is_first_copy=False).unpacked_bytes


def test_an_acknowledgement_of_what_was_never_sent_teaches_nothing() -> None:
    packer = Packer(LIMITS, Clock())
    before = packer.policy

    packer.acknowledged((batch(7), replace(batch(8), buffer=None)))

    assert packer.policy == before
