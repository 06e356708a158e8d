"""A takeover is explained from the events that led to it, and from no older ones."""

from ftvm.events import RecordLearned, SessionEnded, Suspected, TookOver
from ftvm.service.takeoverreport import TakeoverReport
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
