"""Hosts that do not read the same record: both say so, nobody copies, and who has only just made its record stops."""

from collections.abc import Sequence

import pytest

from ftvm.config import Timing
from ftvm.encode.messages import Copy, Envelope, Greeting, Join, Refuse, Welcome
from ftvm.errors import ConfigError
from ftvm.events import JoinUnanswered, PlacesDiffer
from ftvm.interfaces import Answer, Read, Record
from ftvm.protocol import effects as do
from ftvm.protocol import reports
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.arbiter import FORGOTTEN_NS, HEARD_MAX, JUDGED_NS, ArbiterClient, Places
from ftvm.protocol.core import Role
from ftvm.protocol.empty import UNANSWERED_NS
from ftvm.protocol.replica import HELLO_NS, NEW_NS, Replica
from ftvm.protocol.stop import StopKind
from ftvm.units import Nanos

from .harness import GEOMETRY, MS, ORIGIN, FakeMemory, Pair, ids, make_settings
from .situations import take_over

HERE, THERE = "a" * 32, "b" * 32
PEER = "tcp://other:1"


class Bench:
    """One replica, its arbiter answering at once with a record of this place."""

    def __init__(self, place: str | None = HERE, *, starts: bool = False, dialled: Sequence[str] = (PEER,)) -> None:
        self.now = Nanos(ORIGIN)
        self.place = place
        self.record = Record(0, None, None)
        self.effects: list[do.Effect] = []
        settings = make_settings(dialled=tuple(dialled), timing=Timing(primary_limit_ns=Nanos(10 * HELLO_NS)))
        memory = FakeMemory()
        self.replica = Replica(settings, memory, fresh_id=ids("a"), starts=starts, now=self.now, place=place)

    def give(self, report: reports.Report) -> None:
        self.effects += self.replica.step(report, self.now)

    def elapse(self, ns: int) -> None:
        """Let time pass, a tenth of a second at a time, and the arbiter answer."""
        for _ in range(0, ns, 100 * MS):
            self.now = Nanos(self.now + 100 * MS)
            self.give(reports.STEP_BEGUN)
            self.give(reports.TICK)
            self.answer()

    def answer(self) -> None:
        while (request := self.replica.end_step(self.now).request) is not None:
            if not isinstance(request, Read):
                self.record = request.record
            self.give(Answer(request, self.record, None, place=self.place))

    def started(self) -> "Bench":
        self.elapse(200 * MS)
        assert self.replica.view().role is Role.ACTIVE
        self.effects.clear()
        return self

    def greeted(self, place: str | None, ns: int, sender: str = PEER) -> None:
        """Hear HELLO once a second for so long."""
        for _ in range(0, ns, HELLO_NS):
            self.hear(place, sender)
            self.elapse(HELLO_NS)
        self.hear(place, sender)

    def hear(self, place: str | None, sender: str = PEER) -> None:
        envelope = Envelope(guest_id="vm", sender=sender, session=None, record=self.record, released=0)
        self.give(reports.Received(sender, None, envelope, Greeting(place=place, role="active")))

    def sent(self, kind: type) -> list[do.Send]:
        return [each for each in self.effects if isinstance(each, do.Send) and isinstance(each.message, kind)]

    def told(self) -> list[PlacesDiffer]:
        events = [each.event for each in self.effects if isinstance(each, do.Tell)]
        return [event for event in events if isinstance(event, PlacesDiffer)]

    def failures(self) -> list[do.Fail]:
        return [each for each in self.effects if isinstance(each, do.Fail)]

    def hear_join(self, place: str | None) -> None:
        join = Join(geometry=GEOMETRY, engines=("remus",), staging_bytes=1 << 30, place=place)
        envelope = Envelope(guest_id="vm", sender="z1", session=None, record=self.record, released=0)
        self.give(reports.Received("joiner", None, envelope, join))


# --- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("starts", [True, False])
def test_a_host_without_a_session_says_hello_once_a_second_to_each_peer_that_it_dials(starts: bool) -> None:
    bench = Bench(starts=starts, dialled=("one", "two"))

    bench.elapse(3 * HELLO_NS)

    role = "active" if starts else "empty"
    assert [each.peer for each in bench.sent(Greeting)] == ["one", "two"] * 3
    assert {each.message for each in bench.sent(Greeting)} == {Greeting(place=HERE, role=role)}


@pytest.mark.parametrize("name", ["b", "b by another name"])
def test_to_whom_it_is_in_session_with_a_host_says_no_hello(name: str) -> None:
    """Mutants: HELLO goes to the peer in session as well; one that dialled us gets it by the name that we dial."""
    pair = Pair().protected()
    pair.a.core.arbiter.place = "a" * 32
    pair.a.replica.partner = lambda: (name, True)  # type: ignore[method-assign]
    performed = len(pair.a.performed)

    for _ in range(600):
        pair.elapse(5)
        pair.a.tick()

    sent = [effect.message for effect in pair.a.performed[performed:] if isinstance(effect, do.Send)]
    assert sent
    assert not [message for message in sent if isinstance(message, Greeting)]


def test_who_does_not_know_where_its_record_is_says_nothing_of_it() -> None:
    bench = Bench(None, starts=True).started()

    bench.elapse(2 * HELLO_NS)

    assert bench.sent(Greeting) == []


def test_a_join_says_which_record_its_host_reads() -> None:
    bench = Bench()

    bench.elapse(100 * MS)

    assert [each.message.place for each in bench.sent(Join)][:1] == [HERE]  # type: ignore[union-attr]


# --- what is heard ---------------------------------------------------------------------------------------------------


def test_a_joiner_of_another_place_is_not_copied_to_but_told_which_place_is_this_hosts() -> None:
    bench = Bench(starts=True).started()

    bench.hear_join(THERE)

    assert [each.message for each in bench.sent(Greeting)] == [Greeting(place=HERE, role="active")]
    assert bench.sent(Welcome) + bench.sent(Refuse) + bench.sent(Copy) == []
    assert not any(isinstance(each, do.StartCopy) for each in bench.effects)


@pytest.mark.parametrize("theirs", [HERE, None])
def test_a_joiner_of_the_same_place_or_of_a_release_that_says_none_is_welcome(theirs: str | None) -> None:
    bench = Bench(starts=True).started()

    bench.hear_join(theirs)

    assert len(bench.sent(Welcome)) == 1


@pytest.mark.parametrize("theirs", [THERE, ""])
def test_two_places_are_told_once_and_seen_for_as_long_as_they_are_heard(theirs: str) -> None:
    bench = Bench(starts=True).started()
    bench.elapse(NEW_NS)

    bench.greeted(theirs, 4 * HELLO_NS)
    (told,) = bench.told()
    seen = bench.replica.view().elsewhere
    bench.elapse(FORGOTTEN_NS + HELLO_NS)

    assert told.replica == PEER
    assert told.reason == seen
    assert "give both the same --arbiter" in told.reason
    assert bench.replica.view().elsewhere is None
    assert bench.failures() == []


def test_a_difference_that_a_fresh_read_removes_is_none() -> None:
    """The standby was started first: there was no record yet when it looked."""
    bench = Bench("")
    bench.record, bench.place = Record(1, "z1", None), THERE

    bench.hear(THERE)
    bench.answer()
    bench.effects.clear()
    bench.elapse(JUDGED_NS + HELLO_NS)

    assert {each.message.place for each in bench.sent(Join)} == {THERE}  # type: ignore[union-attr]
    assert bench.told() == []


def test_a_flood_of_places_asks_the_arbiter_no_more_often_than_it_may_and_is_bounded() -> None:
    arbiter = ArbiterClient(Nanos(100 * MS), place=HERE)
    places = Places(arbiter)

    for number in range(10 * HEARD_MAX):
        places.hear(f"peer {number}", f"{number:032x}", Nanos(ORIGIN))

    assert len(places._heard) == HEARD_MAX
    assert arbiter.next_request(Nanos(ORIGIN)) == Read()
    assert places.elsewhere == ()


@pytest.mark.parametrize(("theirs", "wait_ns"), [(THERE, 0), ("", JUDGED_NS)])
def test_a_difference_is_certain_only_behind_a_fresh_read_and_where_there_is_no_record_a_while_later(
    theirs: str, wait_ns: int
) -> None:
    """Mutants: what was read before is believed; who has not found the first record yet reads another place."""
    arbiter = ArbiterClient(Nanos(100 * MS), place=HERE)
    places = Places(arbiter)
    places.hear(PEER, theirs, Nanos(ORIGIN))

    unread = places.judge(Nanos(ORIGIN + JUDGED_NS))
    arbiter.take(Answer(arbiter.next_request(Nanos(ORIGIN)) or Read(), Record(1, "a", None), None, place=HERE), ORIGIN)
    early = places.judge(Nanos(ORIGIN + wait_ns - 1)) if wait_ns else ()

    assert (unread, early) == ((), ())
    assert places.judge(Nanos(ORIGIN + wait_ns)) == (PEER,)


def test_who_reads_our_record_by_now_is_forgotten_at_once() -> None:
    arbiter = ArbiterClient(Nanos(100 * MS), place=HERE)
    places = Places(arbiter)
    places.hear(PEER, THERE, Nanos(ORIGIN))

    arbiter.place = THERE
    places.forget(Nanos(ORIGIN))

    assert not places.is_any


def test_a_host_that_was_told_of_another_place_is_not_told_to_start_the_guest_as_well() -> None:
    """Regression: "the arbiter has no record: start it with --create", which makes a second guest."""
    bench = Bench("")

    bench.greeted(THERE, 2 * UNANSWERED_NS)

    assert len(bench.told()) == 1
    assert not any(isinstance(each, do.Tell) and isinstance(each.event, JoinUnanswered) for each in bench.effects)


# --- who stops -------------------------------------------------------------------------------------------------------


def test_a_host_that_has_only_just_made_its_record_stops_in_order() -> None:
    bench = Bench(starts=True).started()

    bench.greeted(THERE, 4 * HELLO_NS)

    (failure, *_) = bench.failures()
    assert isinstance(failure.error, ConfigError)
    assert str(failure.error).endswith("; this host has only just made its record, and stops")
    assert failure.kind is StopKind.FAILED


def test_a_host_that_stops_already_does_not_stop_once_more_because_of_another_record() -> None:
    bench = Bench(starts=True).started()
    bench.replica.stop(StopKind.ASKED, "a test", bench.now)
    bench.hear(THERE)
    for _ in range(3):
        bench.give(reports.TICK)
        request = bench.replica.end_step(bench.now).request
        if isinstance(request, Read):
            bench.give(Answer(request, bench.record, None, place=bench.place))

    bench.hear(THERE)

    assert bench.failures() == []


def test_a_host_that_has_only_just_made_the_record_goes_on_beside_one_that_has_none() -> None:
    bench = Bench(starts=True).started()

    bench.greeted("", 4 * HELLO_NS)

    assert len(bench.told()) == 1
    assert bench.failures() == []


def test_a_host_that_was_started_on_a_record_that_was_there_goes_on() -> None:
    bench = Bench(starts=True)
    bench.record = Record(1, None, None)
    bench.started()

    bench.greeted(THERE, 4 * HELLO_NS)

    assert len(bench.told()) == 1
    assert bench.failures() == []


def test_a_host_whose_standby_was_named_does_not_count_as_who_has_just_made_the_record() -> None:
    pair = Pair().started()
    made_at = pair.a.core.created_at

    pair.until(lambda: pair.a.active.link is LinkState.PROTECTED)

    assert made_at is not None
    assert pair.a.core.created_at is None


def test_a_host_that_takes_a_guest_over_does_not_count_as_who_has_just_made_the_record() -> None:
    """It would stop, and vacate the record of a guest that others have: it made one a few seconds ago, and lost it."""
    pair = Pair().protected()
    pair.b.core.created_at = pair.now

    take_over(pair)

    assert pair.b.core.created_at is None


def test_a_host_with_a_standby_goes_on_whatever_a_third_one_says() -> None:
    bench = Bench(starts=True, dialled=(PEER, "tcp://third:1")).started()
    bench.hear_join(HERE)

    bench.greeted(THERE, 4 * HELLO_NS)

    assert bench.failures() == []
