"""Who may start, who may join, and who is refused."""

from dataclasses import replace

import pytest

from ftvm.checkpoint import Footing, Geometry, RegionShape
from ftvm.encode.messages import Ack, Envelope, Join, Refuse, SessionId, Welcome
from ftvm.events import ArbiterTrouble, JoinRefused, JoinUnanswered, Protected, RoleChanged
from ftvm.interfaces import Answer, CompareAndSet, Lane, Read, Record
from ftvm.protocol import effects as do
from ftvm.protocol.active.active_state import JOINS_TOLERATED
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.empty import UNANSWERED_NS
from ftvm.units import PageCount

from ..harness import MS, Pair, make_settings
from ..situations import envelope

# --- starting --------------------------------------------------------------------------------------------------------


def test_a_replica_runs_only_once_the_record_that_names_it_is_learned() -> None:
    pair = Pair()
    pair.a.tick()

    pair.a.answer()
    pair.a.tick()
    has_run_before = pair.a.is_running
    pair.a.answer()

    assert not has_run_before
    assert pair.a.is_running
    assert pair.store.record == Record(1, "a1", None)


def test_a_start_whose_answer_is_lost_is_repeated_until_it_is_known() -> None:
    pair = Pair()
    pair.a.tick()
    pair.a.answer()
    pair.a.tick()

    for _ in range(3):
        assert pair.a.outstanding == CompareAndSet(Record(1, "a1", None))
        pair.a.answer(is_lost=True)
        assert not pair.a.is_running
        pair.elapse(100)
        pair.a.tick()
    pair.a.answer()

    assert pair.a.role is Role.ACTIVE


def test_nobody_starts_where_somebody_is_active_and_nothing_is_proposed() -> None:
    pair = Pair(record=Record(4, "other", None))
    pair.a.tick()

    pair.a.answer()

    assert "is already in the record: generation 4, active other" in pair.a.failures[0]
    assert pair.store.record == Record(4, "other", None)
    assert not pair.a.is_running


def test_a_record_is_created_only_where_that_was_asked_for() -> None:
    pair = Pair(make_settings(creates=False))
    pair.a.tick()

    pair.a.answer()

    assert "has no record of guest 'vm': run `ftvm init`" in pair.a.failures[0]
    assert pair.store.record.generation == 0


def test_a_vacated_record_is_moved_without_creating_one() -> None:
    pair = Pair(make_settings(creates=False), record=Record(7, None, None)).started()

    assert pair.store.record == Record(8, "a1", None)


# --- joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            make_settings(
                geometry=Geometry(machine="test/1", regions=(RegionShape(name="ram", page_count=PageCount(9)),))
            ),
            "the guests differ",
        ),
        (
            make_settings(
                geometry=Geometry(machine="test/2", regions=(RegionShape(name="ram", page_count=PageCount(8)),))
            ),
            "the guests differ",
        ),
        (make_settings(engines=("lockstep",)), "does not know engine remus, only lockstep"),
    ],
)
def test_a_guest_that_cannot_be_protected_is_refused_finally_on_both_sides(other: object, reason: str) -> None:
    pair = Pair(make_settings(), other=other).started()  # type: ignore[arg-type]

    pair.run(50)

    assert reason in pair.b.failures[0]
    assert pair.b.told(JoinRefused) == [], "its failure tells it, once"
    assert reason in pair.a.told(JoinRefused)[0].reason
    assert pair.a.active.link is LinkState.NONE


def test_two_hosts_that_keep_a_disk_in_one_image_are_no_pair() -> None:
    ours, theirs = (replace(make_settings(), images=(own, "5" * 16)) for own in ("1" * 16, "2" * 16))
    pair = Pair(ours, other=theirs).started()

    pair.run(50)

    assert "both hosts keep a disk in one image (5555555555555555)" in pair.b.failures[0]
    assert pair.a.active.link is LinkState.NONE


def test_a_standby_learns_the_lineage_of_the_disks_and_hands_it_on() -> None:
    pair = Pair(replace(make_settings(), lineage="a" * 16), other=make_settings()).protected()

    assert [node.replica.view().lineage for node in (pair.a, pair.b)] == ["a" * 16] * 2


def test_where_the_guest_stands_is_said_of_a_host_that_has_a_whole_state_of_it() -> None:
    pair = Pair().started()
    before = pair.b.replica.view().footing

    pair = Pair().protected()
    pair.run(1_000)
    ours, theirs = (node.replica.view().footing for node in (pair.a, pair.b))

    assert before is None
    assert ours == Footing(lineage="", generation=2, epoch=0, runs=True)
    assert theirs == Footing(lineage="", generation=2, epoch=pair.b.standby.committed.epoch, runs=False)


def test_a_second_joiner_is_refused_for_now_and_asks_again() -> None:
    pair = Pair().protected()
    third = pair.boot("c", make_settings(), "a", starts=False)

    for _ in range(3):
        pair.elapse(100)
        third.tick()
        pair.carry(third, pair.a)
        for sent in list(pair.a.sent):
            if sent.peer == "c":
                third.take(pair.a, sent)
        pair.a.sent.clear()

    assert third.failures == []
    assert len(third.told(JoinRefused)) == 1
    assert "there is a standby already" in third.told(JoinRefused)[0].reason


def alone(pair: Pair, times: float) -> list[tuple[int, str | None]]:
    """Let b ask to join where nobody listens; return what it told of that."""
    for _ in range(int(times * UNANSWERED_NS / MS / 50)):
        pair.elapse(50)
        pair.b.tick()
        pair.b.sent.clear()
        if pair.b.outstanding is not None:
            pair.b.answer()
    return [(event.generation, event.active) for event in pair.b.told(JoinUnanswered)]


@pytest.mark.parametrize("record", [Record(0, None, None), Record(4, None, None), Record(5, "gone", "b7")])
def test_a_host_that_nobody_takes_says_who_should_and_says_it_once(record: Record) -> None:
    pair = Pair(record=record)

    before = alone(pair, 0.9)
    told = alone(pair, 4)

    assert before == []
    assert told == [(record.generation, record.active)]
    assert pair.b.role is Role.EMPTY


def test_a_host_that_nobody_takes_says_when_somebody_else_should() -> None:
    pair = Pair(record=Record(5, "gone", None))
    alone(pair, 1.5)
    pair.store.record = Record(6, None, None)

    assert alone(pair, 1.5) == [(5, "gone"), (6, None)]


def test_a_host_that_nobody_takes_says_that_the_arbiter_cannot_be_reached() -> None:
    pair = Pair()

    for _ in range(int(1.5 * UNANSWERED_NS / MS / 50)):
        pair.elapse(50)
        pair.b.tick()
        if pair.b.outstanding is not None:
            pair.b.answer(is_applied=False)

    assert pair.b.told(ArbiterTrouble)
    assert not pair.b.told(JoinUnanswered)


def test_a_spare_host_that_is_refused_for_now_is_not_told_that_the_active_may_be_gone() -> None:
    pair = Pair().protected()
    spare = pair.boot("c", make_settings(), "a", starts=False)

    for _ in range(int(2 * UNANSWERED_NS / MS / 50)):
        pair.elapse(50)
        spare.tick()
        pair.carry(spare, pair.a)
        for _ in range(len(pair.a.sent)):
            sent = pair.a.sent.popleft()
            (spare if sent.peer == "c" else pair.b).take(pair.a, sent)
        pair.exchange()
        if spare.outstanding is not None:
            spare.answer()

    assert spare.told(JoinRefused)
    assert spare.told(JoinUnanswered) == []


def test_a_host_that_was_taken_has_nothing_to_say() -> None:
    pair = Pair().protected()

    pair.run(2 * UNANSWERED_NS / MS, step=50)

    assert pair.b.told(JoinUnanswered) == []


def test_a_join_that_was_answered_is_answered_alike_when_it_is_repeated() -> None:
    pair = Pair().started()
    pair.b.tick()
    join = pair.b.sent[0]
    pair.carry(pair.b, pair.a)
    pair.a.sent.clear()

    pair.a.take(pair.b, join)

    assert isinstance(join.message, Join)
    assert [welcome.joiner for welcome in pair.a.waiting(Welcome)] == ["b1"]
    assert pair.a.waiting(Refuse) == []


def test_a_restarted_standby_is_taken_in_as_soon_as_its_old_self_is_dropped() -> None:
    pair = Pair().protected()
    pair.b = pair.boot("b", make_settings(), "a", starts=False, prefix="n")

    pair.until(lambda: pair.store.record.standby == "n1")

    assert pair.a.active.link is LinkState.PROTECTED


def test_a_standby_is_proposed_only_when_it_has_acknowledged_a_whole_epoch() -> None:
    """Mutant: any acknowledgement will do, and the record names a standby that has no state."""
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.CATCHING_UP)
    session = pair.a.active.session
    assert session is not None
    pair.b.core.send("a", Lane.CONTROL, Ack(received=1, epoch=0, log_index=0, memory_digest=0), session.id)
    pair.b.perform()

    pair.a.take(pair.b, pair.b.sent.pop())

    assert session.has_answered
    assert pair.a.active.link is LinkState.CATCHING_UP
    assert pair.a.core.arbiter.proposal is None


def test_an_add_is_not_taken_to_be_in_force_by_a_read_that_was_begun_before_it() -> None:
    """Mutant: whatever the arbiter answers resolves what is proposed."""
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.CATCHING_UP)
    pair.a.core.arbiter.want_read()
    pair.a.tick()
    pair.carry(pair.a, pair.b)
    pair.b.tick()
    pair.carry(pair.b, pair.a)
    assert pair.a.active.link is LinkState.ADDING
    assert isinstance(pair.a.outstanding, Read)

    pair.a.answer()

    assert pair.a.active.link is LinkState.ADDING
    assert not pair.a.told(Protected)


def test_a_standby_is_shipped_no_more_at_a_time_than_it_can_stage() -> None:
    """Mutant: the active goes by its own bound alone."""
    settings = make_settings()
    small = replace(settings.limits, staging_bytes=settings.limits.batch_bytes)
    pair = Pair(settings, other=make_settings(limits=small)).started()

    pair.until(lambda: pair.a.active.session is not None)

    assert do.StartCopy(small.staging_bytes) in pair.a.performed


@pytest.mark.parametrize("link", [LinkState.COPYING, LinkState.CATCHING_UP, LinkState.ADDING])
def test_a_second_joiner_does_not_disturb_one_that_is_being_brought_up(link: LinkState) -> None:
    """Mutant: only a standby that the record names stands in the way, and the link's table ends the host."""
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is link)
    settings, session = pair.a.core.settings, pair.a.active.session
    join = Join(geometry=settings.geometry, engines=("remus",), staging_bytes=settings.limits.staging_bytes)

    pair.a.hear("c", None, replace(envelope(pair), sender="c1"), join)
    pair.a.perform()

    assert [refusal.joiner for refusal in pair.a.waiting(Refuse)] == ["c1"]
    assert not pair.a.waiting(Refuse)[0].is_final
    assert (pair.a.active.link, pair.a.active.session) == (link, session)


def test_an_add_that_was_certainly_not_applied_is_proposed_again() -> None:
    """Mutant: whatever can be withdrawn is, and the host ends by its own table: only a SWITCH has better to do."""
    pair = Pair().started()
    pair.until(lambda: pair.a.active.link is LinkState.ADDING)
    pair.a.tick()

    pair.a.refuse()
    at_once = pair.a.active.link
    pair.run(300)

    assert at_once is LinkState.ADDING
    assert pair.store.record == Record(2, "a1", "b1")
    assert pair.a.active.link is LinkState.PROTECTED


@pytest.mark.parametrize("what", ["joiner", "sender"])
def test_a_welcome_that_is_not_for_the_id_of_now_or_not_by_who_opened_the_session_is_dropped(what: str) -> None:
    """An old welcome, repeated late, must not open a session that its active has ended."""
    pair = Pair().started()
    pair.b.tick()
    pair.carry(pair.b, pair.a)
    sent = next(sent for sent in pair.a.sent if isinstance(sent.message, Welcome))
    assert isinstance(sent.message, Welcome)
    welcome = replace(sent.message, joiner="b0") if what == "joiner" else sent.message
    header = replace(sent.envelope, sender="a0") if what == "sender" else sent.envelope

    pair.b.hear("a", None, header, welcome)

    assert pair.b.role is Role.EMPTY


def test_a_refusal_of_another_id_ends_nothing() -> None:
    """A host that discarded its state may still be refused in the name that it had before."""
    pair = Pair().started()
    refuse = Refuse(joiner="b0", reason="b0 was dropped", is_final=True)

    pair.b.hear("a", None, envelope(pair), refuse)
    pair.b.perform()

    assert pair.b.failures == []


def test_a_host_that_is_to_start_the_guest_takes_no_welcome() -> None:
    pair = Pair()
    session = SessionId(1, "x1", 5)
    header = Envelope(guest_id="vm", sender="x1", session=session, record=Record(5, "x1", None), released=0)
    welcome = Welcome(joiner=pair.a.id, engines=("remus",), staging_bytes=1 << 20)

    pair.a.hear("b", None, header, welcome)

    assert pair.a.role is Role.EMPTY


def test_a_joiner_whose_arbiter_is_behind_its_active_asks_whether_both_use_the_same() -> None:
    """Regression: "the session claims generation 1, but 0 is in force", sixty times a minute, for a mistyped folder."""
    pair = Pair().started()
    pair.until(lambda: pair.b.role is Role.SYNCING and isinstance(pair.b.outstanding, Read))
    request, pair.b.outstanding = pair.b.outstanding, None
    assert request is not None

    pair.b.give(Answer(request, Record(0, None, None), None))
    pair.b.perform()

    assert pair.b.told(RoleChanged)[-1].reason == (
        "the active is at generation 1, but our arbiter's record is of generation 0: do both hosts use the same "
        "arbiter?"
    )


def test_a_standby_that_discards_its_state_again_and_again_has_to_wait_though_it_was_whole_each_time() -> None:
    """Regression: two hosts with an arbiter each copied the guest ten times a second, for as long as they ran."""
    pair = Pair().protected()

    def must_wait() -> bool:
        return any(told.reason.endswith("it must wait for the next one") for told in pair.b.told(JoinRefused))

    for number in range(JOINS_TOLERATED):
        pair.b = pair.boot("b", make_settings(), "a", starts=False, prefix=f"n{number}x")
        pair.until(lambda: pair.a.active.link is LinkState.PROTECTED and pair.b.role is Role.STANDBY)
        assert not must_wait()
    pair.b = pair.boot("b", make_settings(), "a", starts=False, prefix="last")
    pair.until(must_wait)

    assert pair.a.active.link in (LinkState.NONE, LinkState.DROPPING)

    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED and pair.b.role is Role.STANDBY)
