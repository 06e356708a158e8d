"""The door: reports go in, effects come out, and what is seen is frozen."""

from dataclasses import FrozenInstanceError, fields
from typing import get_args

import pytest

from ftvm.protocol import reports
from ftvm.protocol.effects import Difference, RunGuest
from ftvm.protocol.view import LinkState, Role
from ftvm.units import Nanos

from .harness import ORIGIN, Pair, lone_replica

NOW = Nanos(ORIGIN)

LATE = (
    reports.NOTHING_EMITTED,
    reports.RoundCollected(1),
    reports.PagesCopied((), 0),
    reports.CaptureFailed("late"),
    reports.StateLoaded(),
    reports.LoadFailed("late"),
    reports.ShadowWarmed(),
    reports.MemoryMeasured(),
    reports.LogFollowed(()),
    reports.GuestDiverged(Difference(reason="late")),
)
"""One of each report that tells what came of an effect, but for those that need a checkpoint."""


@pytest.mark.parametrize("report", LATE, ids=lambda report: type(report).__name__)
def test_a_report_that_comes_too_late_changes_nothing(report: reports.Report) -> None:
    replica = lone_replica()
    before = replica.view()

    effects = replica.step(report, NOW)

    assert effects == []
    assert replica.view() == before


def test_effects_come_out_once() -> None:
    pair = Pair().started()

    assert any(isinstance(effect, RunGuest) for effect in pair.a.performed)
    assert pair.a.replica.step(reports.StepBegun(), pair.now) == []


@pytest.mark.parametrize("report", get_args(reports.Report))
def test_reports_are_values(report: type) -> None:
    assert report.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_what_is_seen_cannot_be_changed() -> None:
    view = lone_replica().view()

    for field in fields(view):
        with pytest.raises(FrozenInstanceError):
            setattr(view, field.name, None)


def test_a_view_is_of_the_role_that_a_replica_has() -> None:
    pair = Pair().protected()

    active, standby = pair.a.replica.view(), pair.b.replica.view()

    assert (active.role, standby.role) == (Role.ACTIVE, Role.STANDBY)
    assert active.active is not None
    assert active.active.link is LinkState.PROTECTED
    assert active.standby is None
    assert standby.standby is not None
    assert standby.active is None
    assert active.active.session is not None
    assert active.active.session.standby == standby.id == active.record.standby
    assert (active.peer, standby.peer) == ("b", "a")


def test_a_view_does_not_change_with_the_role() -> None:
    pair = Pair()
    before = pair.a.replica.view()

    pair.started()

    assert before.role is Role.EMPTY
    assert pair.a.replica.view().role is Role.ACTIVE
