"""A takeover is explained from the events that led to it, and from no older ones."""

from ftvm.events import (
    Event,
    HostStalled,
    RecordLearned,
    RoleChanged,
    SessionEnded,
    Solo,
    Suspected,
    SwitchFailed,
    TookOver,
)
from ftvm.protocol.core import Role
from ftvm.service.takeoverreport import Explanation, TakeoverReport
from ftvm.testing.pair import Pair
from ftvm.units import Nanos

MS = 1_000_000


def record(generation: int, active: str, standby: str | None) -> RecordLearned:
    return RecordLearned(at=Nanos(0), guest_id="vm1", generation=generation, active=active, standby=standby)


def took(generation: int) -> TookOver:
    return TookOver(
        at=Nanos(0),
        guest_id="vm1",
        generation=generation,
        epoch=17,
        detection_ns=310 * MS,
        arbiter_ns=6 * MS,
        load_ns=2 * MS,
        outputs_emitted_again=3,
    )


SUSPECTED = Suspected(at=Nanos(0), guest_id="vm1", silence_ns=310 * MS, limit_ns=300 * MS)


def test_a_takeover_is_explained_in_order() -> None:
    story = TakeoverReport()
    for event in (record(2, "a1", "b1"), SUSPECTED, record(3, "b1", None)):
        assert story.note(event) is None

    told = story.note(took(3))

    assert told is not None
    assert told.seen == "the active was silent for 310 ms (limit 300 ms)"
    assert told.decided == (
        "the arbiter's record went from generation 2 (active a1, standby b1) to generation 3 (active b1, standby none)"
        ": this host goes on with the guest from epoch 17"
    )
    assert told.cost == (
        "the guest did not run for 316.0 ms: 310.0 ms to notice, 6.0 ms to claim the guest (2.0 ms "
        "of that to load its state); 3 outputs were emitted again"
    )


def test_a_takeover_that_waited_for_no_limit_says_why() -> None:
    story, reason = TakeoverReport(), "the active's process is gone: connection refused on both lanes"
    story.note(Suspected(at=Nanos(0), guest_id="vm1", silence_ns=0, limit_ns=0, reason=reason))

    told = story.note(took(3))

    assert told is not None
    assert told.seen == reason


def test_a_session_that_ended_before_is_told_of() -> None:
    story = TakeoverReport()
    story.note(SessionEnded(at=Nanos(0), guest_id="vm1", reason="the active left: it was stopped"))

    told = story.note(took(3))

    assert told is not None
    assert "the active left: it was stopped" in told.seen


def test_an_old_suspicion_explains_no_later_takeover() -> None:
    story = TakeoverReport()
    story.note(SUSPECTED)
    story.note(took(3))

    told = story.note(took(5))

    assert told is not None
    assert "no silence was waited for" in told.seen


def test_a_record_learned_twice_is_one_step() -> None:
    story = TakeoverReport()
    for event in (record(2, "a1", "b1"), record(3, "b1", None), record(3, "b1", None), record(2, "a1", "b1")):
        story.note(event)

    told = story.note(took(3))

    assert told is not None
    assert "from generation 2 (active a1, standby b1) to generation 3" in told.decided


def test_a_takeover_without_known_records_says_what_is_known() -> None:
    told = TakeoverReport().note(took(3))

    assert told is not None
    assert told.decided == "the arbiter's record of generation 3 names this host active"


# --- the host that lost the guest -------------------------------------------------------------------------------------


def role(name: str, at_ms: int = 0) -> RoleChanged:
    return RoleChanged(at=Nanos(at_ms * MS), guest_id="vm1", role=name, replica_id="a1", reason="")


def loss(*events: Event) -> Explanation | None:
    """Return what the active of generation 2 says when it learns, at 1 s, that b has the guest."""
    story = TakeoverReport()
    for event in (role("active"), record(2, "a1", "b1"), *events, record(3, "b1", None)):
        assert story.note(event) is None
    return story.note(role("empty", 1000))


def test_the_loser_says_that_it_stalled_for_how_long_and_what_became_of_the_guest() -> None:
    """Regression: it said only `record: generation 3` and `now empty`."""
    told = loss(HostStalled(at=Nanos(990 * MS), guest_id="vm1", stall_ns=510 * MS))

    assert told is not None
    assert told.seen == (
        "this host stalled for 510 ms, until 10 ms ago, so the other host heard nothing of it: it was stopped, or is "
        "too busy"
    )
    assert told.decided.startswith(
        "the arbiter's record went from generation 2 (active a1, standby b1) to generation 3 (active b1, standby none)"
    )
    assert told.cost.startswith("nothing that the other host lacks had left this one")


def test_a_loser_that_waited_for_its_guest_does_not_say_that_it_was_too_busy() -> None:
    waited = "QEMU has not answered stop for 9.75 s"
    told = loss(HostStalled(at=Nanos(990 * MS), guest_id="vm1", stall_ns=10_000 * MS, waited=waited))

    assert told is not None
    assert told.seen == (
        f"this host stalled for 10000 ms, until 10 ms ago, so the other host saw no progress here: {waited}"
    )


def test_a_loser_that_heard_nothing_either_says_that_the_link_failed() -> None:
    told = loss(SUSPECTED)

    assert told is not None
    assert told.seen == (
        "neither host heard the other (the standby, seen from here: silent for 310 ms): the link between them failed"
    )


def test_a_loser_that_noticed_nothing_says_what_may_have_been() -> None:
    told = loss()

    assert told is not None
    assert told.seen.startswith("nothing that this host noticed: the other one did not hear it")


def test_a_stall_long_ago_or_a_silence_that_was_dealt_with_explains_no_loss() -> None:
    story = TakeoverReport()
    old = HostStalled(at=Nanos(0), guest_id="vm1", stall_ns=510 * MS)
    for event in (role("active"), old, SUSPECTED, Solo(at=Nanos(0), guest_id="vm1", generation=2, reason="x")):
        story.note(event)
    story.note(record(3, "b1", None))

    told = story.note(role("empty", 40_000))

    assert told is not None
    assert told.seen.startswith("nothing that this host noticed")


def test_a_host_that_leaves_by_itself_has_lost_nothing() -> None:
    assert loss(SwitchFailed(at=Nanos(0), guest_id="vm1", reason="x", is_stopping=True)) is None


def test_a_host_that_vacated_the_record_has_lost_nothing() -> None:
    story = TakeoverReport()
    for event in (role("active"), record(2, "a1", "b1")):
        story.note(event)
    story.note(RecordLearned(at=Nanos(0), guest_id="vm1", generation=3, active=None, standby=None))

    assert story.note(role("empty", 1000)) is None


def test_the_active_of_a_pair_that_was_cut_off_explains_its_loss() -> None:
    pair = Pair().protected()
    pair.cut_off("a", "b")
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.heal()
    pair.until(lambda: pair.a.role is not Role.ACTIVE)
    story = TakeoverReport()

    told = [each for each in map(story.note, pair.a.events) if each is not None]

    assert len(told) == 1
    assert "to generation 3 (active b1, standby none)" in told[0].decided
