"""One verdict on all guests of a machine: well only if each could lose a host now and go on."""

from dataclasses import replace

import pytest

from ftvm.runtime.standing import GOOD, State
from ftvm.runtime.status import Status
from ftvm.service.health import Health, health, plugin_line

from .fakes import STATUS

WELL = (State.PROTECTED, State.STANDBY)


def standing(state: State, guest_id: str = "vm1") -> Status:
    return replace(STATUS, state=state.value, guest_id=guest_id)


@pytest.mark.parametrize("state", State)
def test_a_lone_host_is_well_only_if_one_more_failure_loses_nothing(state: State) -> None:
    verdict = health([standing(state)], 0)

    assert (verdict is Health.OK) == (state in WELL)
    assert frozenset(WELL) == GOOD


@pytest.mark.parametrize(
    ("states", "verdict"),
    [
        ((State.PROTECTED, State.STANDBY), Health.OK),
        ((State.PROTECTED, State.JOINING), Health.OK),
        ((State.PROTECTED, State.STANDBY_UNABLE), Health.WARNING),
        ((State.NO_TAKEOVER, State.STANDBY), Health.WARNING),
        ((State.UNPROTECTED, State.SYNCING), Health.WARNING),
        ((State.JOINING,), Health.WARNING),
        ((State.STANDING_STILL, State.STANDBY), Health.CRITICAL),
        ((State.PROTECTED, State.FAILED), Health.CRITICAL),
        ((), Health.UNKNOWN),
    ],
)
def test_the_worst_of_several_hosts_decides_but_a_spare_takes_nothing_away(
    states: tuple[State, ...], verdict: Health
) -> None:
    assert health([standing(state) for state in states], 0) is verdict


def test_one_guest_that_is_well_does_not_speak_for_another() -> None:
    assert health([standing(State.PROTECTED), standing(State.UNPROTECTED, "vm2")], 0) is Health.WARNING


def test_a_host_that_does_not_answer_is_critical() -> None:
    assert health([standing(State.PROTECTED)], 1) is Health.CRITICAL
    assert health([], 1) is Health.CRITICAL


def test_the_line_of_a_plugin_has_one_bar_and_the_numbers_of_active_hosts_behind_it() -> None:
    line = plugin_line(Health.WARNING, ["a | b", "c\nd"], [STATUS, replace(STATUS, role="standby", guest_id="vm2")])

    assert line == "FTVM WARNING - a / b; c d | 'vm1 lag'=4.5ms 'vm1 outputs held'=2"


def test_the_line_of_a_plugin_without_numbers_has_no_bar() -> None:
    assert plugin_line(Health.UNKNOWN, ["no host answers"]) == "FTVM UNKNOWN - no host answers"
