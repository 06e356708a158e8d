from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import PageBatch
from ftvm.config import Limits
from ftvm.encode.compress import PackPolicy, pack_batch, unpack_batch
from ftvm.errors import BadFrame
from ftvm.units import Nanos

LIMITS = Limits(batch_bytes=1 << 16)
REPETITIVE = b"a delta much like the one before " * 100


def batch_of(payload: bytes) -> PageBatch:
    return PageBatch(count=1, indices=b"iiii", lengths=b"ll", payload=payload, digest=b"d" * 16, buffer=3)


payloads = st.one_of(st.binary(max_size=3000), st.binary(min_size=1, max_size=20).map(lambda part: part * 150))


@given(payloads)
def test_packed_batch_comes_back_as_it_was(payload: bytes) -> None:
    batch = batch_of(payload)

    packed = pack_batch(batch)

    assert len(packed.payload) <= len(payload)
    assert unpack_batch(packed, LIMITS) == batch
    assert packed.buffer == batch.buffer


def test_payload_that_would_not_shrink_is_left_alone() -> None:
    batch = batch_of(bytes(range(256)))

    assert pack_batch(batch) is batch
    assert pack_batch(batch_of(b"")).unpacked_bytes == 0


def test_batch_is_packed_once_only() -> None:
    packed = pack_batch(batch_of(REPETITIVE))

    assert pack_batch(packed) is packed


@pytest.mark.parametrize("claim", [-1, 1, LIMITS.batch_bytes + 1, 1 << 40])
def test_claimed_length_out_of_bounds_is_refused_before_anything_is_unpacked(claim: int) -> None:
    packed = pack_batch(batch_of(REPETITIVE))

    with pytest.raises(BadFrame, match="claims to unpack"):
        unpack_batch(replace(packed, unpacked_bytes=claim), LIMITS)


@pytest.mark.parametrize("off_by", [-1, 1, 100])
def test_claimed_length_that_is_not_what_comes_out_is_refused(off_by: int) -> None:
    packed = pack_batch(batch_of(REPETITIVE))

    with pytest.raises(BadFrame):
        unpack_batch(replace(packed, unpacked_bytes=len(REPETITIVE) + off_by), LIMITS)


@given(st.binary(max_size=300), st.integers(1, 5000))
def test_arbitrary_bytes_unpack_to_what_they_claim_or_are_refused(payload: bytes, claim: int) -> None:
    try:
        unpacked = unpack_batch(replace(batch_of(payload), unpacked_bytes=claim), LIMITS)
    except BadFrame:
        return

    assert len(unpacked.payload) == claim


def test_first_copy_is_always_packed() -> None:
    assert PackPolicy(link_speed=10e9).should_pack(is_first_copy=True)


def test_nothing_is_packed_while_the_link_is_unknown() -> None:
    assert not PackPolicy().should_pack(is_first_copy=False)


@pytest.mark.parametrize(("link_speed", "is_packed"), [(12e6, True), (100e6, True), (400e6, False), (3e9, False)])
def test_slow_links_are_packed_for_and_fast_ones_not(link_speed: float, is_packed: bool) -> None:
    assert PackPolicy(link_speed=link_speed).should_pack(is_first_copy=False) is is_packed


def test_policy_follows_what_is_measured() -> None:
    policy = PackPolicy()
    for _ in range(30):
        policy = policy.acknowledged(sent_bytes=1 << 20, took_ns=Nanos(100_000_000))
    slow_link = policy.should_pack(is_first_copy=False)
    for _ in range(30):
        policy = policy.packed(before_bytes=1 << 20, after_bytes=(1 << 20) - 10, took_ns=Nanos(5_000_000))
    useless = policy.should_pack(is_first_copy=False)

    assert slow_link
    assert not useless


def test_one_batch_in_a_while_is_packed_to_find_out() -> None:
    policy = PackPolicy(link_speed=10e9)
    packed = 0
    for _ in range(650):
        if policy.should_pack(is_first_copy=False):
            packed += 1
            policy = policy.packed(before_bytes=1000, after_bytes=500, took_ns=Nanos(2500))
        else:
            policy = policy.sent_unpacked()

    assert packed == 10


def test_measurements_of_nothing_change_no_speed() -> None:
    policy = PackPolicy(link_speed=1e6)

    assert policy.acknowledged(sent_bytes=0, took_ns=Nanos(1)) == policy
    assert policy.packed(before_bytes=0, after_bytes=0, took_ns=Nanos(0)) == policy
