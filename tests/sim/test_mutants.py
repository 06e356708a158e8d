"""The simulator finds each break of the protocol: a mutant that lives would show that a fault or a checker is missing.

Each mutant comes with the few histories that found it when it was recorded: seeds, or scripts where the break needs two
things at once. One of them must find it again; that others may have drifted past it is no failure.
"""

from collections.abc import Callable
from functools import partial

import pytest

from ftvm.errors import FtvmError, InternalError
from ftvm.sim.checkers import Violation
from ftvm.sim.world import World

from . import mutants, scripts
from .mutants import Mutant

History = Callable[[], None]


def seeds(*numbers: int) -> list[History]:
    return [partial(_play_seed, number) for number in numbers]


def script(play: Callable[[int], None], *numbers: int) -> list[History]:
    return [partial(play, number) for number in numbers]


def _play_seed(number: int) -> None:
    World(number).run()


FOUND_BY: dict[Mutant, list[History]] = {
    mutants.release_without_acknowledgement: seeds(1, 9),
    mutants.release_what_the_next_epoch_holds: seeds(1, 17),
    mutants.obey_the_own_proposal_alone: seeds(10, 18),
    mutants.obey_the_last_record_alone: seeds(1, 11),
    mutants.add_without_hold: script(scripts.the_active_dies_right_after_its_add, 0, 1, 2),
    mutants.add_before_the_standby_caught_up: script(scripts.the_active_dies_right_after_its_add, *range(8)),
    mutants.give_up_a_proposal_on_an_error: seeds(0, 4),
    mutants.put_blindly: seeds(2, 4),
    mutants.keep_the_id_after_discarding: seeds(1, 10),
    mutants.run_before_the_record_is_learned: seeds(1, 2),
    mutants.go_on_when_deposed: seeds(10, 13),
    mutants.keep_outputs_when_deposed: seeds(10, 13),
    mutants.commit_and_acknowledge_while_claiming: script(scripts.a_claim_is_open_when_late_messages_come, 0, 1, 2),
    mutants.acknowledge_what_is_only_staged: seeds(37, 97),
    mutants.skip_a_gap: seeds(4),
    mutants.forget_pending_outputs: seeds(1, 7),
    mutants.forget_outputs_that_are_only_acknowledged: seeds(1, 7),
}


def finds(history: History) -> bool:
    try:
        history()
    except (Violation, InternalError):
        return True
    except FtvmError as wrong:
        raise AssertionError(f"the mutant broke the world instead of an invariant: {wrong!r}") from wrong
    except scripts.MomentMissed:
        return False
    return False


@pytest.mark.parametrize(("mutant", "histories"), FOUND_BY.items(), ids=lambda value: getattr(value, "__name__", "by"))
def test_a_break_is_found(mutant: Mutant, histories: list[History], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)

    assert any(finds(history) for history in histories), f"no history finds that {mutant.__doc__}"


@pytest.mark.parametrize("play", scripts.ALL, ids=lambda play: play.__name__)
@pytest.mark.parametrize("seed", range(3))
def test_a_script_breaks_nothing_that_is_whole(play: Callable[[int], None], seed: int) -> None:
    play(seed)
