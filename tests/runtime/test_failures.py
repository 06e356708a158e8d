"""A capture that fails, a guest that fails, and one that comes to its end: what the driver makes of them."""

from collections.abc import Callable

import pytest

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.checkpoint import END_CHANNEL
from ftvm.config import Limits
from ftvm.errors import ArbiterError, GuestEnded, GuestError, LocalProtocolError, StateUnreadable, TrackingLost
from ftvm.events import Event, GuestFinished, HostFailed, PeerMisbehaved, RecordLearned, SessionEnded, TookOver
from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol.view import LinkState, Role
from ftvm.runtime.ending import HostEnd
from ftvm.testing.pair import Pair
from ftvm.units import Nanos

from .failing import FailingGuest, failing_pairs, guest_of

make_pair = pytest.fixture(failing_pairs)


class DecidingNothing(MemoryRecordStore):
    """A store that is out of reach for who would change its record, from when a test says so."""

    is_out_of_reach = False

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        if self.is_out_of_reach:
            raise ArbiterError("out of reach")
        return super().compare_and_set(guest_id, record)


def test_failed_capture_keeps_dirty_pages_ends_the_session_and_recovers(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    guest = guest_of(pair)
    restored: list[int] = []
    restore = guest.restore_dirty
    guest.restore_dirty = lambda bitmap: (restored.append(bitmap.count()), restore(bitmap))[1]  # type: ignore[method-assign]
    guest.error = TrackingLost("no dirty map")

    pair.until(lambda: pair.a.told(HostFailed))
    was_running = guest.is_running
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert restored[0] > 0
    assert was_running
    assert pair.a.told(HostFailed)[0].error == "capture failed: TrackingLost: no dirty map"
    assert "capture failed" in pair.a.told(SessionEnded)[0].reason


def test_buffers_of_failed_captures_come_back(make_pair: Callable[..., Pair]) -> None:
    """Regression: a capture whose device state could not be saved kept the buffers of its pages for ever."""
    pair = make_pair().protected()
    for failures in range(1, 6):
        guest_of(pair).error = GuestError("not now")
        pair.until(lambda failures=failures: len(pair.a.told(HostFailed)) == failures)
        pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)
    pair.kill(pair.b)
    pair.until(lambda: pair.a.active.link is LinkState.NONE)
    pair.run(5)

    assert pair.a.driver._capturer.buffers.in_use == 0


def test_an_epoch_beyond_the_staging_bound_is_a_failed_capture_not_a_dead_host(
    make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair().protected()
    capturer = pair.a.driver._capturer
    monkeypatch.setattr(capturer, "_limits", Limits(batch_bytes=1 << 16, staging_bytes=10))

    pair.until(lambda: pair.a.told(HostFailed))
    monkeypatch.setattr(capturer, "_limits", Limits(batch_bytes=1 << 16))
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert "LimitExceeded: encoded bytes of one checkpoint" in pair.a.told(HostFailed)[0].error
    assert pair.a.driver.failure is None


def test_device_state_beyond_the_limit_is_a_failed_capture(make_pair: Callable[..., Pair]) -> None:
    """Regression: it was sent, the standby could not read it, and the active repeated it for ever."""
    pair = make_pair(limits=Limits(batch_bytes=1 << 16, copy_rest_pages=4, devices_bytes=64)).protected()
    guest_of(pair).extra = bytes(100)

    pair.until(lambda: pair.a.told(HostFailed))

    assert "LimitExceeded: bytes of device state" in pair.a.told(HostFailed)[0].error
    assert pair.b.told(PeerMisbehaved) == []


def test_an_output_beyond_the_limit_is_a_failed_capture(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(limits=Limits(batch_bytes=1 << 16, copy_rest_pages=4, output_bytes=64)).protected()

    pair.a.driver._sink.emit("net0", bytes(65))
    pair.until(lambda: pair.a.told(HostFailed))

    assert "LimitExceeded: bytes of one output" in pair.a.told(HostFailed)[0].error
    assert pair.b.told(PeerMisbehaved) == []


def test_a_guest_that_ended_leaves_and_the_standby_takes_over(make_pair: Callable[..., Pair]) -> None:
    """Regression: the host that failed proposed a DROP on its way out, which expelled the standby."""
    pair = make_pair().protected()
    asked = len(pair.a.arbiter.requests)

    guest_of(pair).reason = "its process died"
    pair.run(1)
    pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert str(pair.a.driver.failure) == "the guest ended: its process died"
    assert not any(isinstance(request, CompareAndSet) for request in pair.a.arbiter.requests[asked:])
    assert pair.record() == Record(3, "b1", None)
    assert pair.b.told(TookOver)[0].detection_ns < pair.a.driver.settings.timing.backup_limit_ns


def test_a_guest_that_dies_while_it_is_captured_is_taken_over(make_pair: Callable[..., Pair]) -> None:
    """Regression: the failed capture ended the session, and the host waited for the DROP, then vacated the record: six
    of eight times, a QEMU that was killed took the guest with it."""
    pair = make_pair().protected()
    asked = len(pair.a.arbiter.requests)
    guest_of(pair).error, guest_of(pair).dies_of_error = GuestError("its process died"), True

    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.a.driver.stopped)

    assert str(pair.a.driver.failure) == "the guest ended: its process died"
    assert pair.a.driver.stopped.is_in_order
    assert not any(isinstance(request, CompareAndSet) for request in pair.a.arbiter.requests[asked:])
    assert pair.record() == Record(3, "b1", None)


def test_a_guest_that_dies_while_it_is_handed_over_ends_its_host_as_a_standby(make_pair: Callable[..., Pair]) -> None:
    """Regression: only a running guest was asked whether it had failed, so the host stood by with a guest that could
    never run, and the next switchover lost it."""
    pair = make_pair().protected()
    pair.a.driver.begin_switchover(Nanos(10**9))
    pair.until(lambda: pair.a.role is Role.STANDBY)
    guest_of(pair).reason = "its process died"

    pair.until(lambda: pair.a.driver.stopped)

    assert str(pair.a.driver.failure) == "the guest ended: its process died"
    assert pair.a.driver.stopped.is_in_order
    assert pair.b.role is Role.ACTIVE
    (ended,) = pair.b.told(SessionEnded)
    assert ended.reason == "the standby left: its guest failed: its process died"


@pytest.mark.parametrize("role", [Role.STANDBY, Role.SYNCING, Role.EMPTY])
def test_a_host_that_is_not_active_ends_when_its_guest_fails(make_pair: Callable[..., Pair], role: Role) -> None:
    pair = make_pair()
    pair.until(lambda: pair.b.role is role)
    guest = pair.b.guest
    assert isinstance(guest, FailingGuest)
    guest.reason = "its process died"

    pair.until(lambda: pair.b.driver.stopped)

    assert str(pair.b.driver.failure) == "the guest ended: its process died"
    assert pair.b.driver.stopped.is_in_order
    pair.until(lambda: pair.record() == Record(pair.record().generation, "a1", None))


def test_a_standby_whose_guest_has_failed_never_claims(
    make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moments in which nobody has looked at it yet."""
    pair = make_pair().protected()
    guest = pair.b.guest
    assert isinstance(guest, FailingGuest)
    pair.kill(pair.a)
    monkeypatch.setattr(HostEnd, "look_at_guest", lambda _ending, _now: None)
    guest.reason = "its process died"

    pair.until(lambda: pair.b.told(HostFailed))

    assert pair.b.told(HostFailed)[0].error == "loading failed: its process died"
    assert pair.record() == Record(2, "a1", "b1")


def test_a_guest_whose_state_cannot_be_read_is_its_standbys(make_pair: Callable[..., Pair]) -> None:
    """Regression: the failed capture dropped the standby, which had the whole disk; each later first copy failed."""
    pair = make_pair().protected()
    asked = len(pair.a.arbiter.requests)
    guest_of(pair).error = StateUnreadable("the disk a.img cannot be read")

    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.a.driver.stopped)

    assert str(pair.a.driver.failure) == "StateUnreadable: the disk a.img cannot be read"
    assert pair.a.driver.stopped.is_in_order
    assert not any(isinstance(request, CompareAndSet) for request in pair.a.arbiter.requests[asked:])
    assert pair.record() == Record(3, "b1", None)


def test_a_guest_whose_state_cannot_be_read_while_it_is_copied_goes_on_alone(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    pair.until(lambda: pair.a.role is Role.ACTIVE and pair.a.active.link is LinkState.COPYING)
    guest_of(pair).error = StateUnreadable("the disk a.img cannot be read")

    pair.until(lambda: pair.a.told(HostFailed))

    assert pair.a.told(HostFailed)[0].error == "capture failed: StateUnreadable: the disk a.img cannot be read"
    assert (pair.a.driver.failure, pair.a.role) == (None, Role.ACTIVE)


def test_a_guest_that_ends_while_it_is_captured_has_ended(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    guest_of(pair).error = GuestError("it is over")
    guest_of(pair).end(pair)

    pair.until(lambda: pair.a.driver.failure and pair.a.driver.stopped)

    assert isinstance(pair.a.driver.failure, GuestEnded)
    assert pair.record().active is None


def test_a_guest_that_came_to_its_own_end_ends_both_hosts_and_leaves_the_record_vacant(
    make_pair: Callable[..., Pair],
) -> None:
    """Regression: it was a failure of its host, and the standby took over and ran the end of it again."""
    pair = make_pair().protected()
    guest_of(pair).end(pair)

    pair.until(lambda: pair.a.driver.stopped and pair.b.driver.failure)

    assert [type(machine.driver.failure) for machine in (pair.a, pair.b)] == [GuestEnded, GuestEnded]
    for machine in (pair.a, pair.b):
        (told,) = machine.told(GuestFinished)
        assert told.reason == "the guest ended: the program ended with code 0"
        assert (machine.told(HostFailed), machine.told(TookOver)) == ([], [])
    assert pair.record() == Record(3, None, None)
    assert pair.a.driver.stopped.is_in_order
    assert END_CHANNEL not in {output.channel for output in pair.a.released}


def test_a_host_whose_guest_has_ended_hands_nothing_over(make_pair: Callable[..., Pair]) -> None:
    """Regression: closing such a host waited seven seconds for a switchover that nothing would ever step."""
    pair = make_pair().protected()
    guest_of(pair).end(pair)
    pair.until(lambda: pair.a.driver.failure)

    with pytest.raises(LocalProtocolError, match="is stopping: the guest ended: "):
        pair.a.driver.begin_switchover(Nanos(10**10))


def test_a_guest_that_is_ended_while_a_proposal_is_open_stands_still_at_once(make_pair: Callable[..., Pair]) -> None:
    """The arbiter's word may take seconds, and until then the link is one in which a guest may run."""
    store = DecidingNothing()
    pair = make_pair(store=store).protected()
    store.is_out_of_reach = True
    pair.kill(pair.b)
    pair.until(lambda: pair.a.active.link is LinkState.DROPPING)
    was_running = guest_of(pair).is_running

    pair.a.driver.end_guest("its operator ended it")

    assert was_running
    assert pair.a.driver.is_leaving
    assert not guest_of(pair).is_running


def test_a_guest_that_fails_between_its_operators_order_and_its_end_goes_on_nowhere(
    make_pair: Callable[..., Pair],
) -> None:
    """Regression: of `ftvm stop`, while the guest's process hung: its host gave it up as failed before it carried that
    out, and the standby went on with a guest that was to be ended for good."""
    pair = make_pair().protected()
    pair.a.driver.order_end("its operator ended it")
    guest_of(pair).reason = "its process does not answer"

    pair.until(lambda: pair.a.driver.stopped and pair.b.driver.failure)

    assert [type(machine.driver.failure) for machine in (pair.a, pair.b)] == [GuestEnded, GuestEnded]
    assert pair.record() == Record(3, None, None)


def test_who_hears_of_the_end_finds_the_host_ended(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    found: list[object] = []
    tell = pair.a.driver._on_event

    def note(event: Event) -> None:
        tell(event)
        if isinstance(event, GuestFinished):
            found.append(pair.a.driver.failure)

    pair.a.driver._on_event = note
    guest_of(pair).end(pair)
    pair.until(lambda: pair.a.driver.failure)

    assert [type(failure) for failure in found] == [GuestEnded]


def test_an_end_that_is_not_safe_yet_is_no_end(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    pair.kill(pair.b)
    guest_of(pair).end(pair)

    pair.run(200)
    was_over = pair.a.driver.failure
    pair.until(lambda: pair.a.driver.failure)
    pair.until(lambda: pair.a.driver.stopped)

    assert was_over is None
    learned = [Record(told.generation, told.active, told.standby) for told in pair.a.told(RecordLearned)]
    assert learned[-2:] == [Record(3, "a1", None), Record(4, None, None)]  # a DROP: only then may anything leave
    assert isinstance(pair.a.driver.failure, GuestEnded)
    assert pair.record() == Record(4, None, None)


def test_an_end_that_was_shipped_but_not_told_is_told_by_who_takes_over(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    guest_of(pair).end(pair)
    pair.until(lambda: any(output.channel == END_CHANNEL for output in pair.b.standby.outputs))

    pair.kill(pair.a)
    pair.until(lambda: pair.b.driver.stopped)

    assert isinstance(pair.b.driver.failure, GuestEnded)
    assert pair.record() == Record(4, None, None)


def test_nothing_is_done_after_a_failure(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    pair.a.driver.halt("a test")
    released, told = len(pair.a.released), len(pair.a.events)

    pair.run(100)

    assert pair.a.driver.step(pair.clock.now()) is None
    assert (len(pair.a.released), len(pair.a.events)) == (released, told)
    assert not pair.a.guest.is_running
