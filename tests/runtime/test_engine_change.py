"""An engine changed on a running protection: from each to each other one, wherever the primary dies meanwhile.

The simulated guest's outputs depend on all that it has done: a takeover from a wrong state contradicts what was
released.
"""

from collections.abc import Callable, Iterator
from itertools import islice, permutations

import pytest

from ftvm.encode.messages import Leave
from ftvm.engines.names import ENGINES, engine_named
from ftvm.errors import ConfigError, LocalProtocolError
from ftvm.events import Diverged, EngineChanged, HostFailed, PeerMisbehaved, SessionEnded
from ftvm.interfaces import Capability, Engine
from ftvm.protocol.view import LinkState, Role
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import HASTY, Pair, SteppedHost, sim_guest

INTERVAL = 0.02
CHANGES = list(permutations(ENGINES, 2))
MakePair = Callable[[str], Pair]


class Busy(SimGuest):
    """Takes one more step while it is being paused, as a guest with its own thread does."""

    resumes = 0

    def pause(self) -> None:
        self.advance()
        super().pause()

    def resume(self) -> None:
        self.resumes += 1
        super().resume()


class CannotReplay(SimGuest):
    def __init__(self, boots: bool) -> None:
        super().__init__(page_count=24, pages_per_step=2, output_every=4, boots=boots)

    @property
    def can(self) -> frozenset[Capability]:
        return frozenset()


def busy(boots: bool) -> SimGuest:
    return Busy(page_count=24, pages_per_step=2, output_every=2, boots=boots)


def named(name: str) -> Engine:
    return engine_named(name, INTERVAL)


@pytest.fixture
def make_pair() -> Iterator[MakePair]:
    pairs: list[Pair] = []

    def make(engine: str) -> Pair:
        pairs.append(
            Pair(guest=busy, engine=named(engine), engines={name: named(name) for name in ENGINES}, timing=HASTY)
        )
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def troubles(*machines: SteppedHost) -> list[object]:
    kinds = (Diverged, HostFailed, PeerMisbehaved, SessionEnded)
    return [event for machine in machines for event in machine.events if isinstance(event, kinds)]


def changes(machine: SteppedHost) -> list[tuple[str, str]]:
    return [(event.before, event.engine) for event in machine.told(EngineChanged)]


def agree(*machines: SteppedHost) -> int:
    """Check that nothing released is contradicted or missing; return the highest number that left."""
    said: dict[int, bytes] = {}
    for machine in machines:
        for output in machine.released:
            assert said.setdefault(output.number, output.payload) == output.payload, output.number
    assert sorted(said) == list(range(1, len(said) + 1))
    return len(said)


def talk(pair: Pair, milliseconds: int) -> None:
    """Let everybody live, with an input now and then."""
    for _ in range(milliseconds):
        for machine in pair.alive:
            if pair.clock.now() % 7 == 0:
                machine.world.put("net0", b"%d" % pair.clock.now())
        pair.run(1)


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_protection_is_never_lost_by_a_change(make_pair: MakePair, old: str, new: str) -> None:
    pair = make_pair(old).protected()
    generation = pair.record().generation
    before = len(pair.a.released)

    pair.a.driver.set_engine(named(new))
    talk(pair, 300)

    assert pair.record().generation == generation
    assert changes(pair.a) == changes(pair.b) == [(old, new)]
    assert {pair.a.driver.status(pair.clock.now()).engine, pair.b.driver.status(pair.clock.now()).engine} == {new}
    assert troubles(pair.a, pair.b) == []
    assert agree(pair.a) > before


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_the_log_goes_on_only_under_an_engine_that_needs_it(make_pair: MakePair, old: str, new: str) -> None:
    pair = make_pair(old).protected()
    pair.a.driver.set_engine(named(new))
    talk(pair, 50)
    before = pair.b.standby.log_index

    talk(pair, 100)

    assert (pair.b.standby.log_index > before) == named(new).logs


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_takeover_after_a_change_goes_on_under_the_new_engine(make_pair: MakePair, old: str, new: str) -> None:
    pair = make_pair(old).protected()
    pair.a.driver.set_engine(named(new))
    talk(pair, 200)

    assert took_over(pair) == new


STEPS_AROUND = 16
"""By then the change is in force under every engine, and the next checkpoint is on its way."""


def take_turns(pair: Pair, steps: int) -> None:
    for _ in islice(pair.turns(), steps):
        pass


def took_over(pair: Pair) -> str:
    """Kill the primary; return the engine under which the backup goes on."""
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    talk(pair, 60)
    assert agree(pair.a, pair.b) > len(pair.a.released)
    return pair.b.driver.status(pair.clock.now()).engine


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_wherever_the_primary_dies_around_a_change_nothing_released_is_lost_or_contradicted(
    make_pair: MakePair, old: str, new: str
) -> None:
    """After each single step of either host: their turns alternate, so that messages are cut off in every place."""
    engines = set()
    for steps in range(STEPS_AROUND):
        pair = make_pair(old).protected(30)
        pair.a.driver.set_engine(named(new))
        take_turns(pair, steps)

        engines.add(took_over(pair))
        pair.close()
    assert engines == {old, new}


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_wherever_the_backup_dies_around_a_change_the_guest_goes_on_under_the_new_engine(
    make_pair: MakePair, old: str, new: str
) -> None:
    for steps in range(0, STEPS_AROUND, 5):
        pair = make_pair(old).protected(30)
        pair.a.driver.set_engine(named(new))
        take_turns(pair, steps)

        pair.kill(pair.b)
        pair.until(lambda pair=pair: pair.record().standby is None)  # type: ignore[misc]
        before = agree(pair.a)
        talk(pair, 50)

        assert changes(pair.a) == [(old, new)]
        assert agree(pair.a) > before
        pair.close()


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_change_while_a_backup_is_brought_up_reaches_it(make_pair: MakePair, old: str, new: str) -> None:
    for link in (LinkState.NONE, LinkState.COPYING, LinkState.CATCHING_UP, LinkState.ADDING):
        pair = make_pair(old)
        next(turn for turn in pair.turns() if pair.a.role is Role.ACTIVE and pair.a.active.link is link)
        pair.a.driver.set_engine(named(new))

        pair.protected(30)
        talk(pair, 100)

        assert changes(pair.a) == [(old, new)]
        assert took_over(pair) == new
        pair.close()


def test_changes_that_follow_each_other_closely_all_hold(make_pair: MakePair) -> None:
    """Whatever is in force when the next one is asked for."""
    pair = make_pair("remus").protected()

    for gap in range(1, 12):
        for name in ("lockstep", "kemari", "lockstep", "hybrid", "remus"):
            pair.a.driver.set_engine(named(name))
            talk(pair, gap)
    talk(pair, 100)

    assert troubles(pair.a) == []
    assert took_over(pair) == "remus"


def test_other_parameters_of_the_same_engine_are_a_change_too(make_pair: MakePair) -> None:
    pair = make_pair("remus").protected()

    pair.a.driver.set_engine(engine_named("remus", 0.2))
    pair.run(50)
    epoch = pair.a.active.epoch
    pair.run(1_000)

    assert changes(pair.a) == [("remus", "remus")]
    assert pair.a.active.epoch - epoch == 5


def test_a_change_is_cut_at_once(make_pair: MakePair) -> None:
    """An engine that cuts seldom must not delay it: Kemari with a silent guest may not cut for seconds."""
    pair = make_pair("remus").protected()
    pair.a.driver.set_engine(engine_named("remus", 10.0))
    pair.run(30)

    pair.a.driver.set_engine(named("hybrid"))
    pair.run(10)

    assert changes(pair.b)[-1] == ("remus", "hybrid")


def test_no_pages_are_cut_before_the_backup_has_come_to_rest(make_pair: MakePair) -> None:
    """A backup that executes cannot take pages: it is somewhere before the mark to which they would be added."""
    pair = make_pair("lockstep").protected()
    pair.alive.remove(pair.b)  # it is slow
    pair.a.driver.set_engine(named("remus"))
    pair.run(60)
    pair.alive.append(pair.b)
    pair.run(100)

    assert changes(pair.b) == [("lockstep", "remus")]
    assert troubles(pair.a, pair.b) == []
    assert took_over(pair) == "remus"


def test_a_change_that_cannot_reach_the_backup_is_in_force_once_that_is_lost(make_pair: MakePair) -> None:
    """No checkpoint is cut while too many are in flight: the one that would carry the change never comes."""
    pair = make_pair("remus").protected()
    pair.kill(pair.b)
    pair.run(100)
    pair.a.driver.set_engine(named("hybrid"))

    pair.until(lambda: pair.record().standby is None)
    pair.run(10)

    assert changes(pair.a) == [("remus", "hybrid")]


def test_a_guest_that_cannot_be_replayed_is_refused_the_engines_that_log() -> None:
    pair = Pair(guest=CannotReplay)
    pair.protected()

    with pytest.raises(
        ConfigError, match=r"engine hybrid needs a guest that supports: replay; this one can have remus, kemari$"
    ):
        pair.a.driver.set_engine(named("hybrid"))

    pair.run(50)
    assert changes(pair.a) == []
    pair.close()


def test_an_engine_that_the_standby_did_not_offer_is_refused() -> None:
    pair = Pair(guest=lambda boots: sim_guest(boots) if boots else CannotReplay(boots)).protected()

    with pytest.raises(ConfigError, match="does not know engine lockstep, only remus, kemari"):
        pair.a.driver.set_engine(named("lockstep"))

    pair.run(50)
    assert changes(pair.a) == []
    pair.close()


def test_only_where_the_guest_runs_can_the_engine_be_changed(make_pair: MakePair) -> None:
    pair = make_pair("remus").protected()

    with pytest.raises(LocalProtocolError, match="standby: the engine is set where the guest runs"):
        pair.b.driver.set_engine(named("kemari"))


def test_an_output_made_while_the_guest_is_paused_for_the_change_waits_for_that_checkpoint(make_pair: MakePair) -> None:
    """Nobody logged it: judged by the new engine it would leave although no backup has it."""
    pair = make_pair("remus").protected()
    pair.until(lambda: not pair.a.active.held)
    before = len(pair.a.released)
    pair.a.driver.set_engine(named("hybrid"))
    pair.a.guest.deliver("net0", b"question")

    pair.a.step()
    pair.a.step()

    assert pair.a.active.engine.name == "hybrid"
    assert len(pair.a.active.held) == 1
    assert len(pair.a.released) == before


def test_under_kemari_the_guest_stands_still_from_the_change_on(make_pair: MakePair) -> None:
    pair = make_pair("remus").protected()
    guest = pair.a.guest
    assert isinstance(guest, Busy)
    before = guest.resumes

    pair.a.driver.set_engine(named("kemari"))
    pair.a.step()

    assert pair.a.active.engine.name == "kemari"
    assert guest.resumes == before


def test_an_output_made_before_an_unprotected_change_is_judged_by_the_old_engine(make_pair: MakePair) -> None:
    """While a DROP is open the backup may still take over: an output that nobody logged must not pass as logged."""
    pair = make_pair("remus").protected()
    pair.a.driver.set_engine(named("hybrid"))
    talk(pair, 100)
    pair.a.driver.set_engine(named("remus"))
    talk(pair, 100)
    pair.until(lambda: not pair.a.active.held)
    pair.a.hear(Leave(reason="a test"))
    before = len(pair.a.released)
    pair.a.guest.deliver("net0", b"question")
    pair.a.guest.advance()

    pair.a.driver.set_engine(named("hybrid"))
    pair.a.step()

    assert pair.a.active.link is LinkState.DROPPING
    assert len(pair.a.released) == before
