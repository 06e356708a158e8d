"""Lockstep: a backup that came to another state is found, named, and either starts afresh or ends, as it was told to.

Where exactly the two parted is known only as an interval, from the last mark at which they agreed to the place where
that was seen: memory is compared at marks alone, and neither host keeps what it was in between.
"""

from collections.abc import Callable, Iterator

import pytest

from ftvm.engines.hybrid import Hybrid
from ftvm.engines.lockstep import Lockstep
from ftvm.errors import GuestError
from ftvm.events import Diverged, Protected, Solo
from ftvm.interfaces import Record
from ftvm.protocol.view import Role
from ftvm.testing.pair import Pair

MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair() -> Iterator[MakePair]:
    pairs: list[Pair] = []

    def make(**options: bool) -> Pair:
        pairs.append(Pair(engine=Lockstep(interval=0.02), **options).protected())  # type: ignore[arg-type]
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def spoil(pair: Pair) -> int:
    """Change a byte of a page of the backup's memory behind its back; return the page."""
    page = 7
    pair.b.guest.memory[0].buffer[page * 4096 + 4000] ^= 1
    pair.b.guest._mark(page)
    return page


def test_a_difference_is_found_named_and_healed_by_a_fresh_copy(make_pair: MakePair) -> None:
    pair = make_pair()
    was, before = pair.b.id, len(pair.a.released)
    agreed = pair.b.standby.position
    page = spoil(pair)

    pair.until(lambda: pair.b.told(Diverged))
    (event,) = pair.b.told(Diverged)
    protected = len(pair.a.told(Protected))
    pair.until(lambda: len(pair.a.told(Protected)) > protected)
    pair.run(100)

    assert event.pages == (page,)
    assert agreed is not None
    assert event.agreed is not None
    assert event.seen is not None
    assert agreed <= event.agreed < event.seen
    assert pair.b.id != was
    assert len(pair.b.told(Diverged)) == 1
    assert len(pair.a.released) > before


def test_who_diverged_does_not_take_over_before_it_was_healed(make_pair: MakePair) -> None:
    pair = make_pair()
    spoil(pair)

    pair.until(lambda: pair.b.told(Diverged))
    pair.kill(pair.a)
    pair.run(3_000)

    assert pair.b.role is Role.EMPTY


def test_a_backup_that_was_told_so_ends_when_it_diverged_and_the_guest_goes_on_alone(make_pair: MakePair) -> None:
    pair = make_pair(ends_diverged=True)
    spoil(pair)

    pair.until(lambda: pair.a.told(Solo))
    before = len(pair.a.released)
    pair.run(1_000)

    assert isinstance(pair.b.driver.failure, GuestError)
    assert "diverged from its primary's between" in str(pair.b.driver.failure)
    assert pair.record().standby is None
    assert len(pair.a.released) > before


def test_a_takeover_whose_log_leads_nowhere_ends_its_host_and_leaves_a_vacant_record() -> None:
    """Mutant: the host ends at once, and the record names a host that is gone."""
    pair = Pair(engine=Hybrid(interval=0.1)).protected()
    pair.until(lambda: pair.b.standby.log)

    def lead_nowhere(*_: object) -> bool:
        raise GuestError("input 3 was not taken where the primary's guest took it")

    pair.b.guest.run_until = lead_nowhere  # type: ignore[method-assign,assignment]
    try:
        pair.kill(pair.a)
        pair.until(lambda: pair.b.driver.stopped)

        assert (
            str(pair.b.driver.failure) == "the replay diverged: input 3 was not taken where the primary's guest took it"
        )
        assert pair.b.driver.stopped.is_in_order
        assert not pair.b.guest.is_running
        assert pair.record() == Record(4, None, None)
    finally:
        pair.close()
