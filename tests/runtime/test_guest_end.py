"""A host that did not hear that its guest has ended for good learns it from the arbiter's record, and ends."""

from collections.abc import Iterator

import pytest

from ftvm.errors import ClosedError, GuestEnded
from ftvm.events import GuestFinished
from ftvm.interfaces import Record
from ftvm.protocol.core import Role
from ftvm.testing.pair import Pair, SteppedHost

SAID = "the guest has ended for good, by the record of generation "


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair().protected()
    yield pair
    pair.close()


def stop_process(pair: Pair, host: SteppedHost) -> None:
    pair.alive.remove(host)


def end_guest(pair: Pair) -> None:
    pair.a.driver.end_guest("an operator ended the guest")
    pair.until(lambda: pair.a.driver.stopped)
    pair.kill(pair.a)


@pytest.mark.parametrize("before_ms", [0, 3_000])
def test_a_standby_that_was_stopped_as_the_guest_ended_ends_when_it_reads_that(pair: Pair, before_ms: int) -> None:
    """Regression: once it went on, it asked to join a guest that there was not, for ever."""
    stop_process(pair, pair.b)
    pair.run(before_ms)  # dropped by then, or not
    pair.cut_off("a")
    end_guest(pair)

    pair.alive.append(pair.b)
    pair.until(lambda: pair.b.driver.failure)

    generation = 4 if before_ms else 3
    assert (pair.record(), pair.record().is_ended) == (Record(generation, None, None), True)
    assert isinstance(pair.b.driver.failure, GuestEnded)
    assert [told.reason for told in pair.b.told(GuestFinished)] == [f"{SAID}{generation}"]
    assert pair.b.role is Role.STANDBY


def test_a_host_that_had_lost_its_part_before_ends_when_it_reads_that(pair: Pair) -> None:
    """It was dropped, could not join again, and asks the arbiter now and then who should let it in."""
    stop_process(pair, pair.b)
    pair.run(3_000)
    pair.cut_off("a")
    pair.alive.append(pair.b)
    pair.until(lambda: pair.b.role is Role.EMPTY)
    end_guest(pair)

    pair.until(lambda: pair.b.driver.failure, 25_000)

    assert isinstance(pair.b.driver.failure, GuestEnded)


def test_a_host_that_only_waits_for_a_guest_waits_on_though_an_earlier_one_has_ended(pair: Pair) -> None:
    end_guest(pair)
    pair.kill(pair.b)
    waiting = pair.boot("b", "a")

    pair.run(25_000)
    waited = waiting.driver.failure
    pair.boot("a", "b", starts=True)
    pair.until(lambda: pair.record().standby is not None)

    assert waited is None
    assert not pair.record().is_ended
    assert waiting.role is Role.STANDBY


def test_a_standby_that_wakes_when_another_guest_has_started_joins_that(pair: Pair) -> None:
    stop_process(pair, pair.b)
    pair.cut_off("a")
    end_guest(pair)
    pair.boot("a", "b", starts=True)
    pair.run(100)
    pair.heal()

    pair.alive.append(pair.b)
    pair.until(lambda: pair.record().standby is not None)

    assert pair.b.driver.failure is None


def test_a_host_that_was_stopped_alone_leaves_a_standby_that_wakes_to_wait_for_it(pair: Pair) -> None:
    """Its host was stopped, perhaps for an update: the guest is started again."""
    stop_process(pair, pair.b)
    pair.run(3_000)
    pair.a.driver.stop(ClosedError("an operator stops this host"))
    pair.until(lambda: pair.a.driver.stopped)
    pair.kill(pair.a)

    pair.alive.append(pair.b)
    pair.run(25_000)

    assert (pair.record(), pair.record().is_ended) == (Record(4, None, None), False)
    assert (pair.b.driver.failure, pair.b.role) == (None, Role.EMPTY)


def test_a_standby_that_was_asked_to_stop_itself_goes_on_with_that(pair: Pair) -> None:
    stop_process(pair, pair.b)
    pair.run(3_000)
    end_guest(pair)

    pair.b.driver.stop(ClosedError("an operator stops this host"))
    pair.alive.append(pair.b)
    pair.until(lambda: pair.b.driver.stopped)

    assert isinstance(pair.b.driver.failure, ClosedError)
    assert pair.b.driver.stopped.is_in_order
