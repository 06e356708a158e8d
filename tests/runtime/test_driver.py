"""The driver with the simulator's guest over the in-process transport: captures, failures, limits, takeovers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import get_args

import pytest

from ftvm.checkpoint import END_CHANNEL
from ftvm.config import Limits
from ftvm.engines.hybrid import Hybrid
from ftvm.errors import ClosedError, GuestEnded, GuestError, LocalProtocolError, StateUnreadable, TrackingLost
from ftvm.events import (
    Committed,
    Event,
    GuestFinished,
    GuestWarned,
    HostFailed,
    PeerMisbehaved,
    RecordLearned,
    SessionEnded,
    TookOver,
)
from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol.effects import Effect
from ftvm.protocol.view import LinkState, Role
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import Pair
from ftvm.units import PAGE_BYTES, Nanos


class FailingGuest(SimGuest):
    """A SimGuest that fails where and when a test says."""

    error: GuestError | None = None
    reason: str | None = None
    dies_of_error: bool = False
    is_idle: bool = False
    extra: bytes = b""

    def __init__(self, boots: bool) -> None:
        super().__init__(page_count=24, pages_per_step=2, output_every=4, boots=boots)

    def save_devices(self) -> bytes:
        devices = super().save_devices() + self.extra
        error, self.error = self.error, None
        if error is not None:
            self.reason = str(error) if self.dies_of_error else self.reason
            raise error
        return devices

    def load_devices(self, devices: bytes) -> None:
        super().load_devices(devices[: len(devices) - len(self.extra)])

    def failure(self) -> str | None:
        return self.reason

    def advance(self) -> None:
        if self.reason is None and not self.is_idle:
            super().advance()

    def end(self, pair: Pair) -> None:
        """Come to its own end."""
        self.reason = "the program ended with code 0"
        pair.a.driver._sink.emit(END_CHANNEL, self.reason.encode())


@pytest.fixture
def make_pair() -> Iterator[Callable[..., Pair]]:
    pairs: list[Pair] = []

    def make(**options: object) -> Pair:
        pairs.append(Pair(guest=FailingGuest, **options))  # type: ignore[arg-type]
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def guest_of(pair: Pair) -> FailingGuest:
    assert isinstance(pair.a.guest, FailingGuest)
    return pair.a.guest


def test_a_standby_follows_and_outputs_flow(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    before = len(pair.a.released)

    pair.run(200)

    numbers = [output.number for output in pair.a.released]
    assert len(numbers) > before
    assert numbers == list(range(1, len(numbers) + 1))
    assert pair.b.standby.epoch is not None


def test_a_guest_that_does_nothing_is_not_cut_until_it_writes(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    guest_of(pair).is_idle = True
    pair.run(100)
    epochs = [pair.a.active.epoch]
    pair.run(500)
    epochs.append(pair.a.active.epoch)
    goes_on = pair.a.guest.is_running

    guest_of(pair).is_idle = False
    pair.a.guest.advance()
    guest_of(pair).is_idle = True
    pair.run(50)

    assert epochs[0] == epochs[1]
    assert goes_on
    assert pair.a.active.epoch == epochs[1] + 1
    assert pair.b.standby.epoch == pair.a.active.epoch


def test_a_guest_that_does_nothing_is_cut_once_a_second(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    guest_of(pair).is_idle = True
    pair.run(1_100)
    epoch = pair.a.active.epoch

    pair.run(3_000)

    assert 2 <= pair.a.active.epoch - epoch <= 3


def test_a_takeover_goes_on_from_exactly_what_was_cut(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    prints: dict[int, bytes] = {}
    pair.a.guest.on_saved = lambda fingerprint: prints.update({pair.a.active.epoch + 1: fingerprint})
    pair.protected()
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.b.guest.is_running)

    took_over = pair.b.told(TookOver)[0]

    assert prints[took_over.epoch] == pair.b.guest.fingerprint()


def test_a_takeover_repeats_or_continues_the_outputs_and_contradicts_none(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.run(200)

    before = {output.number: output.payload for output in pair.a.released}
    after = {output.number: output.payload for output in pair.b.released}
    assert min(after) <= max(before) + 1
    assert all(before[number] == after[number] for number in before.keys() & after.keys())
    assert max(after) > max(before)


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


def test_a_standby_whose_guest_has_failed_never_claims(make_pair: Callable[..., Pair]) -> None:
    """In the moments in which nobody has looked at it yet."""
    pair = make_pair().protected()
    guest = pair.b.guest
    assert isinstance(guest, FailingGuest)
    pair.kill(pair.a)
    pair.b.driver._check_guest = lambda _: None  # type: ignore[method-assign]
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


def test_a_host_that_is_stopped_hands_the_guest_over(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    pair.a.driver.stop(ClosedError("maintenance"))
    pair.until(lambda: pair.a.driver.stopped)
    pair.run(20)

    assert pair.a.driver.stopped.is_in_order
    assert not pair.a.guest.is_running
    assert pair.b.role is Role.ACTIVE
    assert pair.record() == Record(4, "b1", None)  # SWITCH, then DROP


def test_nothing_is_done_after_a_failure(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    pair.a.driver.halt("a test")
    released, told = len(pair.a.released), len(pair.a.events)

    pair.run(100)

    assert pair.a.driver.step(pair.clock.now()) is None
    assert (len(pair.a.released), len(pair.a.events)) == (released, told)
    assert not pair.a.guest.is_running


def test_a_guest_whose_output_piles_up_is_paused_until_some_has_left(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(limits=Limits(batch_bytes=1 << 16, copy_rest_pages=4, outputs_held=40)).protected()
    pair.alive.remove(pair.b)

    pair.until(lambda: not pair.a.guest.is_running, 400)
    held = len(pair.a.active.held)
    pair.alive.append(pair.b)
    pair.until(lambda: pair.a.guest.is_running)

    assert 20 <= held <= 24


def test_status_tells_where_things_stand_on_both_sides(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    here, there = (machine.driver.status(pair.clock.now()) for machine in (pair.a, pair.b))

    assert (here.role, here.link, here.generation, here.standby) == ("active", "protected", 2, "b1")
    assert (there.role, there.link, there.replica_id) == ("standby", "", "b1")
    assert here.digests_compared > 0
    assert 0 <= here.epoch - there.epoch <= 2
    assert here.as_dict()["pause_us"].keys() == {"p50", "p99"}


def test_the_status_tells_how_long_outputs_were_held(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    pair.run(400)

    delay = pair.a.driver.status(pair.clock.now()).output_delay_us
    assert 0 < delay.p50 <= delay.p99 <= 25_000  # the test's clock: an interval of 20 ms, and a commit


def test_an_output_waits_from_when_the_guest_made_it_not_from_when_the_loop_took_it(
    make_pair: Callable[..., Pair],
) -> None:
    pair = make_pair()
    pair.alive.remove(pair.b)
    pair.run(10)  # alone: what is taken leaves at once
    before = pair.a.driver.status(pair.clock.now()).output_delays

    pair.a.driver._sink.emit("net0", b"x")
    pair.clock.elapse(7)
    pair.a.step()
    after = pair.a.driver.status(pair.clock.now()).output_delays

    assert after.sum_us - before.sum_us >= 7_000


@pytest.mark.parametrize("limits", [Limits(log_records=64), Limits(log_bytes=512)], ids=["records", "bytes"])
def test_a_guest_whose_log_grows_long_is_paused_until_a_checkpoint_covers_it(limits: Limits) -> None:
    """The backup keeps the log since the last checkpoint: more than it can keep would end the session."""
    pair = Pair(engine=Hybrid(interval=0.1), limits=replace(limits, batch_bytes=1 << 16, copy_rest_pages=4)).protected()

    pair.alive.remove(pair.b)  # it is slow
    for _ in range(100):
        pair.a.world.put("net0", b"0123456789")
        pair.run(1)
    still = not pair.a.guest.is_running
    pair.alive.append(pair.b)
    pair.run(100)

    assert still
    assert not pair.b.told(PeerMisbehaved)
    assert not pair.a.told(SessionEnded)
    assert pair.a.guest.is_running
    pair.close()


def test_what_a_guest_warns_of_is_an_event_and_told_once(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    pair.a.driver._sink.warn("this is slow")
    pair.run(3)

    assert [event.reason for event in pair.a.told(GuestWarned)] == ["this is slow"]


def test_a_status_tells_what_memory_is_in_use_for_a_guest_and_its_standby(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    alone = pair.a.driver.status(pair.clock.now())
    pair.protected()
    pair.run(50)

    active, standby = (machine.driver.status(pair.clock.now()) for machine in (pair.a, pair.b))
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    took_over = pair.b.driver.status(pair.clock.now())

    size = 24 * PAGE_BYTES
    assert (alone.guest_bytes, alone.shadow_bytes, alone.staging_bytes) == (size, 0, 0)
    assert (active.guest_bytes, active.shadow_bytes) == (size, size)
    assert active.staging_bytes >= 1 << 16, "a batch at least"
    assert (standby.guest_bytes, standby.shadow_bytes) == (size, 0)
    assert took_over.guest_bytes == size


def test_a_host_that_switched_away_has_given_its_shadow_back(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    switchover = pair.a.driver.begin_switchover(Nanos(10_000_000_000))
    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.a.role is Role.STANDBY)

    left = pair.a.driver.status(pair.clock.now())

    assert switchover is not None
    assert left.shadow_bytes == 0


def test_the_driver_has_an_act_for_each_effect(make_pair: Callable[..., Pair]) -> None:
    driver = make_pair().a.driver

    assert driver._acts.keys() == set(get_args(Effect))


def test_a_small_batch_is_sent_as_it_is_and_teaches_nothing(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    before, committed = pair.a.driver._packer.policy, len(pair.b.told(Committed))

    pair.until(lambda: len(pair.b.told(Committed)) > committed + 2)

    assert pair.a.driver._packer.policy == before
