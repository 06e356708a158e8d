"""A failing history shrinks to few faults that can be played again, alone."""

from ftvm.sim.faultlog import FaultId
from ftvm.sim.mutation import mutate
from ftvm.sim.run import play
from ftvm.sim.shrink import shrink

MUTANT, ENGINE, FAILS = "replay_nothing", "hybrid", 3
"""Found by faults alone: without one there is no takeover that replays."""
SEED = 2


def test_what_is_left_breaks_the_same_invariant_by_itself() -> None:
    with mutate(MUTANT):
        failing = next(one for seed in range(FAILS, 50) if (one := play(seed, engine=ENGINE)).invariant is not None)

        shrunk = shrink(failing, engine=ENGINE)

        again = play(failing.seed, engine=ENGINE, only=shrunk.faults)
    assert 0 < len(shrunk.faults) < len(failing.faults)
    assert again.invariant == failing.invariant
    assert again.faults == shrunk.faults


def test_a_history_without_faults_breaks_nothing() -> None:
    history = play(SEED, only=())

    assert history.invariant is None
    assert history.faults == ()


def test_a_fault_left_out_leaves_the_others_of_its_kind_as_they_were() -> None:
    whole = play(SEED, traces=True)
    first = next(fault for fault in whole.faults if fault.kind == "outage")

    alone = play(SEED, only=[first], traces=True)

    def outage(lines: tuple[str, ...]) -> str:
        return next(line for line in lines if "ARBITER down" in line)

    assert alone.faults == (first,)
    assert outage(alone.lines) == outage(whole.lines)


def test_a_fault_is_written_and_read_as_the_command_takes_it() -> None:
    assert FaultId.parse(str(FaultId("crash", 2))) == FaultId("crash", 2)
