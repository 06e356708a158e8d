"""What an active owes the world and its standby beyond the release rule."""

from collections import deque
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from ftvm.checkpoint import Checkpoint, GuestPosition, LogKind, LogRecord, Output, OutputTable, Watermarks
from ftvm.config import Limits
from ftvm.encode.messages import Envelope, EpochPart, Join, Pong, Refuse
from ftvm.events import SessionEnded
from ftvm.interfaces import EngineView
from ftvm.logtable import LogTable
from ftvm.protocol import effects as do
from ftvm.protocol.active import PROGRESS_PATIENCE, leaving, shipping
from ftvm.protocol.active.active_state import QUIET_NS_MAX, ActiveState
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.reports import CutTaken, CutWanted, Emitted, GuestStirred, NothingToCut
from ftvm.protocol.timers import AT_ONCE, NEVER
from ftvm.units import Nanos

from ..harness import Pair, lone_active, make_batch, make_settings


def ask_to_join(pair: Pair, joiner: str, *, staging_bytes: int | None = None) -> list[Refuse]:
    """Have host b ask to join as `joiner`; return the refusals that come of it."""
    core = pair.b.core
    bound = core.settings.limits.staging_bytes if staging_bytes is None else staging_bytes
    join = Join(geometry=core.settings.geometry, engines=tuple(core.settings.engines), staging_bytes=bound)
    envelope = Envelope(guest_id="vm", sender=joiner, session=None, record=core.arbiter.known, released=0)
    pair.a.sent.clear()
    pair.a.hear("b", None, envelope, join)
    pair.a.perform()
    return pair.a.waiting(Refuse)


@pytest.mark.parametrize(("shipped_next", "since"), [(3, 10), (5, 10), (6, 20), (7, 30), (8, None)])
def test_the_engine_is_told_since_when_what_no_epoch_carries_waits(shipped_next: int, since: int | None) -> None:
    seen: list[EngineView] = []
    active = Pair().protected().a.active
    assert active.session is not None
    active.session.shipped_next = shipped_next
    active.schedule.engine = Mock(wraps=active.schedule.engine, next_cut=seen.append)
    active.outputs.released = 4
    for number, at in ((5, 10), (6, 20), (7, 30)):
        active.outputs.hold([Output(number=number, channel="c", payload=b"")], Watermarks(1, 0), Nanos(at))

    shipping.next_cut(active)

    assert [(view.oldest_output_at, view.oldest_uncut_at, view.outputs_waiting) for view in seen] == [(10, since, 3)]


def interval_of(active: ActiveState) -> int:
    return shipping.next_cut(active) - active.schedule.last_cut_at


def order_of(active: ActiveState, now: Nanos) -> do.Cut:
    active.cut(now)
    (order,) = active.core.take_effects()
    assert isinstance(order, do.Cut)
    return order


def hold_one(active: ActiveState) -> None:
    last = active.outputs.released
    active.outputs.hold([Output(number=last + 1, channel="c", payload=b"")], Watermarks(9, 0), Nanos(0))


def log_one(active: ActiveState) -> None:
    assert active.session is not None
    active.session.log(LogTable.of([LogRecord(index=1, kind=LogKind.CLOCK, position=GuestPosition(1, 0), amount=1)]))


REASONS: dict[str, Callable[[ActiveState], object]] = {
    "an output waits": hold_one,
    "something was logged": log_one,
    "the guest has flushed a disk": lambda active: setattr(active, "flushed", active.epoch + 1),
    "the engine is to change": lambda active: setattr(active.schedule, "wanted", active.schedule.engine),
    "a switchover waits": lambda active: setattr(active, "link", LinkState.SETTLING),
    "the standby is not named yet": lambda active: setattr(active, "link", LinkState.ADDING),
    "the last epoch is a second old": lambda active: setattr(active.schedule, "shipped_at", AT_ONCE),
}


def test_a_cut_that_nothing_waits_for_may_be_skipped() -> None:
    pair = Pair().protected()

    assert order_of(pair.a.active, pair.now).may_skip


def test_a_mark_that_nothing_was_logged_for_may_be_skipped_as_well() -> None:
    pair = Pair().protected()
    session = pair.a.active.session
    assert session is not None
    session.is_followed = True

    may_skip = [order_of(pair.a.active, pair.now).may_skip]
    log_one(pair.a.active)
    may_skip.append(order_of(pair.a.active, pair.now).may_skip)

    assert may_skip == [True, False]


@pytest.mark.parametrize("reason", REASONS)
def test_a_cut_is_not_skipped_where(reason: str) -> None:
    pair = Pair().protected()
    REASONS[reason](pair.a.active)

    assert not order_of(pair.a.active, pair.now).may_skip


def test_after_a_skipped_cut_the_next_is_due_an_interval_later() -> None:
    pair = Pair().protected()
    active, epoch = pair.a.active, pair.a.active.epoch
    interval_ns = interval_of(active)
    pair.elapse(500)
    order_of(active, pair.now)

    pair.a.give(NothingToCut())

    assert shipping.next_cut(active) == pair.now + interval_ns
    assert active.epoch == epoch


def at_rest(pair: Pair) -> ActiveState:
    """Have a look find the guest of host a at rest."""
    active = pair.a.active
    pair.elapse(500)
    order_of(active, pair.now)
    pair.a.give(NothingToCut(is_at_rest=True))
    return active


def test_a_guest_at_rest_is_looked_at_once_a_second() -> None:
    active = at_rest(Pair().protected())

    assert shipping.next_cut(active) == active.schedule.shipped_at + QUIET_NS_MAX


@pytest.mark.parametrize("rested_ms", [0, 1, 24, 26, 101, 400])
def test_a_guest_that_goes_on_is_cut_when_it_would_have_been_without_a_rest(rested_ms: int) -> None:
    pair = Pair().protected()
    interval_ns = interval_of(pair.a.active)
    active = at_rest(pair)
    looked_at = active.schedule.last_cut_at
    pair.elapse(rested_ms)

    pair.a.give(GuestStirred())

    due = shipping.next_cut(active)
    assert pair.now < due <= pair.now + interval_ns
    assert (due - looked_at) % interval_ns == 0


def test_an_output_of_a_guest_that_was_taken_to_be_at_rest_waits_no_longer_than_another() -> None:
    pair = Pair().protected()
    interval_ns = interval_of(pair.a.active)
    active = at_rest(pair)

    hold_one(active)

    assert shipping.next_cut(active) == pair.now + interval_ns


def test_a_rest_ends_with_a_cut() -> None:
    pair = Pair().protected()
    interval_ns = interval_of(pair.a.active)
    active = at_rest(pair)
    pair.elapse(60)

    order_of(active, pair.now)
    active.schedule.is_cutting = False

    assert shipping.next_cut(active) == pair.now + interval_ns


def test_a_cut_that_the_guest_asks_for_is_due_at_once_and_once() -> None:
    pair = Pair().protected()
    active = pair.a.active
    pair.elapse(1)
    assert shipping.next_cut(active) > pair.now

    pair.a.give(CutWanted())

    assert shipping.next_cut(active) <= pair.now
    order_of(active, pair.now)
    pair.a.give(NothingToCut())
    assert shipping.next_cut(active) > pair.now


def test_a_cut_that_the_guest_asks_for_waits_for_a_place_among_the_epochs_under_way() -> None:
    pair = Pair().protected()
    active = pair.a.active
    assert active.session is not None
    active.session.in_flight = deque([Mock()] * active.core.settings.limits.epochs_in_flight)

    pair.a.give(CutWanted())

    assert shipping.next_cut(active) == NEVER


def cut_of(pair: Pair, *outputs: Output) -> CutTaken:
    """Return a cut of host a that has brought these outputs."""
    order = order_of(pair.a.active, pair.now)
    checkpoint = Checkpoint(
        epoch=order.epoch,
        base=order.base,
        engine=order.engine.name,
        batches=(make_batch(1),),
        devices=b"",
        outputs=(),
        output_next=pair.a.output_next + len(outputs),
        log_index=0,
        memory_digest=1,
        dirty_pages=1,
    )
    emitted = Emitted(said=[(OutputTable.of(outputs), 0)] if outputs else ())
    return CutTaken(emitted=emitted, engine=order.engine, checkpoint=checkpoint, paused_at=pair.now, pause_ns=Nanos(1))


def test_what_a_cut_has_brought_travels_with_its_epoch() -> None:
    """Mutant: what goes with an epoch is gathered before what its cut has brought is taken."""
    pair = Pair().protected()
    said = Output(number=pair.a.output_next, channel="net0", payload=b"said just before the cut")
    cut = cut_of(pair, said)

    pair.a.give(cut)
    pair.a.perform()

    ends = [part.checkpoint for part in pair.a.waiting(EpochPart) if part.checkpoint is not None]
    assert [(end.epoch, end.outputs) for end in ends] == [(cut.checkpoint.epoch, (said,))]


def test_the_buffers_of_a_cut_that_nobody_is_there_for_are_given_back() -> None:
    """Mutant: the session has ended while the guest was cut, and the batches are kept for ever."""
    pair = Pair().started()
    cut = cut_of(pair)

    effects = pair.a.replica.step(cut, pair.now)

    assert do.Forget(cut.checkpoint.batches) in effects


def live_alone(pair: Pair, milliseconds: float) -> None:
    """Let host a live for a while; whatever it says to b is lost."""
    for _ in range(int(milliseconds / 50)):
        pair.elapse(50)
        pair.a.tick()
        pair.a.sent.clear()
        if pair.a.outstanding is not None:
            pair.a.answer()


def test_a_replica_that_was_dropped_cannot_return_under_its_id() -> None:
    """docs/protocol.md, "What is assumed": an id that was removed from the record never returns."""
    pair = Pair().protected()
    gone = pair.b.id
    leaving.leave(pair.a.active, "a test", pair.now)
    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED and pair.b.id != gone)

    (refusal,) = ask_to_join(pair, gone)

    assert refusal.is_final
    assert "was dropped and cannot return" in refusal.reason
    assert pair.a.active.link is LinkState.PROTECTED


def test_a_staging_bound_that_holds_no_batch_is_refused() -> None:
    pair = Pair().started()

    (refusal,) = ask_to_join(pair, "z9", staging_bytes=1)

    assert refusal.is_final
    assert "does not hold one batch" in refusal.reason
    assert pair.a.active.link is LinkState.NONE


def test_a_joining_standby_has_the_guests_address_announced_again() -> None:
    """Late frames of an active that was stopped and woke as a joiner once led the switch astray for good."""
    pair = Pair().started()
    pair.a.performed.clear()

    assert ask_to_join(pair, "z9") == []

    assert do.Announce() in pair.a.performed


def test_what_was_released_is_told_a_heartbeat_later() -> None:
    """What was let out may still wait in the host and die with it: the standby must keep it until then."""
    pair = Pair().protected()
    pair.run(500)
    told = pair.a.core.released_told
    pair.a.emit(b"one")
    pair.until(lambda: pair.a.core.released > told)

    core, session = pair.a.core, pair.a.active.session
    assert session is not None
    pings = session.ping_number
    pair.until(lambda: session.ping_number == pings + 1)

    assert core.released_told == told
    assert [outputs.last for outputs in pair.a.active.releases.untold] == [core.released]

    pair.run(500)

    assert core.released_told == core.released
    assert not pair.a.active.releases.untold


def test_what_a_solo_active_has_just_released_goes_to_the_standby_that_joins() -> None:
    """Found by the simulator: released while solo, still in the host when it died right after its ADD."""
    pair = Pair().started()
    pair.a.emit(b"one")
    assert pair.a.said == [b"one"]

    pair.until(lambda: pair.b.role is Role.STANDBY)

    assert [output.payload for output in pair.b.standby.committed.outputs] == [b"one"]


def joined_and_copying(pair: Pair) -> None:
    """Let b join, and stop the world while its first copy is under way."""
    pair.until(lambda: pair.a.active.link is LinkState.COPYING)


def test_the_first_output_behind_a_join_goes_to_the_standby_that_joins() -> None:
    """It leaves at once, as nobody is named yet, and may still be in the host when that dies right after its ADD."""
    pair = Pair().started()
    live_alone(pair, 500)
    joined_and_copying(pair)

    pair.a.emit(b"first", b"second")
    assert pair.a.said == [b"first", b"second"]
    pair.until(lambda: pair.b.role is Role.STANDBY)

    assert [output.payload for output in pair.b.standby.committed.outputs] == [b"first", b"second"]


@pytest.mark.parametrize("before", [(), (b"just released",)], ids=["nothing", "something just released"])
def test_what_a_new_standby_is_shipped_begins_with_the_first_output_that_is_not_told_as_released(
    before: tuple[bytes, ...],
) -> None:
    pair = Pair().started()
    pair.a.emit(b"long ago")
    live_alone(pair, 500)
    if before:
        pair.a.emit(*before)

    joined_and_copying(pair)

    assert pair.a.active.session is not None
    assert pair.a.active.session.shipped_next == 2
    assert [output.payload for output in pair.a.active.pending_outputs()] == list(before)


def test_what_a_solo_active_released_long_ago_is_not_shipped() -> None:
    pair = Pair().started()
    pair.a.emit(b"one")
    live_alone(pair, 500)

    pair.until(lambda: pair.b.role is Role.STANDBY)

    assert not pair.b.standby.committed.outputs


def test_a_key_that_joins_under_fresh_ids_and_never_answers_has_to_wait_and_others_get_in() -> None:
    pair = Pair().started()
    limit = pair.a.core.settings.timing.primary_limit_ns

    refusals = []
    for number in range(4):
        refusals += ask_to_join(pair, f"fresh{number}")
        live_alone(pair, 5 * limit / 1e6)
    assert refusals == []

    (refusal,) = ask_to_join(pair, "fresh5")

    assert not refusal.is_final
    assert refusal.reason.endswith("it must wait for the next one")
    assert pair.a.active.link is LinkState.NONE

    join = Join(geometry=pair.a.core.settings.geometry, engines=("remus",), staging_bytes=1 << 28)
    envelope = Envelope(guest_id="vm", sender="honest", session=None, record=pair.a.core.arbiter.known, released=0)
    pair.a.hear("c", None, envelope, join)

    assert pair.a.active.link is LinkState.COPYING


def test_a_standby_that_is_heard_but_makes_no_progress_is_left() -> None:
    """It could hold the outputs for ever: by heartbeats it lives, and nothing it says lets anything go."""
    pair = Pair().protected()
    session = pair.a.active.session
    assert session is not None
    envelope = Envelope(
        guest_id="vm", sender=session.standby, session=session.id, record=pair.b.core.arbiter.known, released=0
    )

    for number in range(1_000, 1_000 + 2 * (PROGRESS_PATIENCE + 2)):
        pair.a.hear(session.peer, session.key, envelope, Pong(number=number))
        live_alone(pair, session.detector.configured_ns / 2e6)

    assert session.is_lost
    assert "made no progress" in pair.a.told(SessionEnded)[-1].reason


def test_nothing_of_the_copy_is_made_for_a_joiner_that_has_not_answered() -> None:
    """A JOIN costs its sender nothing: what it costs us must be little until the joiner is known to take part."""
    pair = Pair().started()

    assert ask_to_join(pair, "z9") == []
    live_alone(pair, 500)

    assert not [effect for effect in pair.a.performed if isinstance(effect, do.CopyMore)]


def test_only_so_many_epochs_are_cut_ahead_of_the_standby() -> None:
    pair = Pair().protected()
    session = pair.a.active.session
    assert session is not None

    live_alone(pair, 400)

    assert len(session.in_flight) == pair.a.core.settings.limits.epochs_in_flight


def test_what_a_replay_makes_again_does_not_leave_if_it_is_known_to_have_left() -> None:
    """Mutant: a takeover repeats all that its log makes."""
    active = lone_active()
    active.core.released = 2

    outputs = OutputTable.of([Output(number=number, channel="net0", payload=b"x") for number in (1, 2, 3)])
    shipping.take_emitted(active, Emitted(said=[(outputs, 0)]), active.began_at)

    left = [
        output.number for effect in active.core.effects if isinstance(effect, do.Release) for output in effect.outputs
    ]
    assert left == [3]


@pytest.mark.parametrize("limits", [Limits(outputs_held=8), Limits(outputs_held_bytes=8)])
def test_the_guest_stands_still_when_half_of_the_output_that_may_wait_is_held(limits: Limits) -> None:
    pair = Pair(make_settings(limits=limits)).protected()

    pair.a.emit(b"a", b"b", b"c")
    below = pair.a.active.must_stand_still()
    pair.a.emit(b"d")

    assert not below
    assert pair.a.active.must_stand_still()
