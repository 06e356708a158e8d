"""Each checker sees the breach that it is there for, and nothing else."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from ftvm.checkpoint import Output, Watermarks
from ftvm.config import Limits
from ftvm.interfaces import Record
from ftvm.protocol.view import ActiveView, StandbyView
from ftvm.sim.checkers import (
    ActiveChecker,
    InvariantViolated,
    OutputChecker,
    PositionChecker,
    RecordChecker,
    StateChecker,
    check_limits,
)


def output(number: int, payload: bytes = b"x") -> Output:
    return Output(number=number, channel="net0", payload=payload)


def test_two_actives_of_one_generation_are_seen() -> None:
    checker = ActiveChecker()
    checker.became_active(Record(3, "x", None), "x")
    checker.became_active(Record(4, "y", None), "y")

    with pytest.raises(InvariantViolated, match="I1"):
        checker.became_active(Record(3, "y", None), "y")


def test_an_active_that_its_record_does_not_name_is_seen() -> None:
    with pytest.raises(InvariantViolated, match="I1"):
        ActiveChecker().became_active(Record(3, "x", "y"), "y")


def test_an_output_released_twice_with_another_content_is_seen() -> None:
    checker = OutputChecker()
    checker.was_released("x", output(1))
    checker.was_released("y", output(1))

    with pytest.raises(InvariantViolated, match="I2"):
        checker.was_released("z", output(1, b"other"))


@pytest.mark.parametrize(("replica", "number"), [("y", 3), ("x", 3)])
def test_an_output_left_out_is_seen(replica: str, number: int) -> None:
    checker = OutputChecker()
    checker.was_released("x", output(1))

    with pytest.raises(InvariantViolated, match="I7"):
        checker.was_released(replica, output(number))


@pytest.mark.parametrize("number", [1, 3])
def test_a_replica_that_releases_out_of_its_own_order_is_seen(number: int) -> None:
    checker = OutputChecker()
    for known in (1, 2, 3):
        checker.was_released("x", output(known))
    checker.was_released("y", output(1))

    with pytest.raises(InvariantViolated, match="I7"):
        checker.was_released("y", output(number))


def test_a_takeover_from_an_epoch_that_was_never_cut_is_seen() -> None:
    checker = StateChecker()
    checker.was_cut("x", 4, b"fingerprint")

    with pytest.raises(InvariantViolated, match="I3"):
        checker.runs_from("x", 5, b"fingerprint")


def test_a_takeover_from_another_state_than_was_cut_is_seen() -> None:
    checker = StateChecker()
    checker.was_cut("x", 4, b"fingerprint")
    checker.runs_from("x", 4, b"fingerprint")

    with pytest.raises(InvariantViolated, match="I3"):
        checker.runs_from("x", 4, b"another")


def test_a_takeover_without_what_was_acknowledged_is_seen() -> None:
    checker = StateChecker()
    checker.was_acknowledged("y", Watermarks(4, 9))
    checker.took_over("y", Watermarks(5, 9))

    with pytest.raises(InvariantViolated, match="I5"):
        checker.took_over("y", Watermarks(5, 8))


@pytest.mark.parametrize(("generation", "epoch"), [(2, 9), (3, 7)])
def test_a_replica_that_goes_back_is_seen(generation: int, epoch: int) -> None:
    checker = PositionChecker()
    checker.stands("x", 3, 8)
    checker.stands("y", 1, 1)

    with pytest.raises(InvariantViolated, match="I6"):
        checker.stands("x", generation, epoch)


def test_a_generation_left_out_is_seen() -> None:
    with pytest.raises(InvariantViolated, match="I6"):
        RecordChecker().changed(Record(1, "x", None), Record(3, "x", "y"))


def test_a_replica_that_comes_back_into_the_record_is_seen() -> None:
    checker = RecordChecker()
    checker.changed(Record(1, "x", None), Record(2, "x", "y"))
    checker.changed(Record(2, "x", "y"), Record(3, "x", None))

    with pytest.raises(InvariantViolated, match="I6"):
        checker.changed(Record(3, "x", None), Record(4, "x", "y"))


def test_takeovers_and_switchovers_are_counted_apart() -> None:
    checker = RecordChecker()
    checker.changed(Record(2, "x", "y"), Record(3, "y", "x"))
    checker.changed(Record(3, "y", "x"), Record(4, "x", None))

    assert (checker.takeovers, checker.switchovers) == (1, 1)


LIMITS = Limits()


def active(*, outputs: int = 0, output_bytes: int = 0, epochs: int = 0) -> Any:
    session = SimpleNamespace(in_flight=range(epochs))
    return Mock(spec=ActiveView, held_count=outputs, held_bytes=output_bytes, session=session)


def standby(*, outputs: int = 0, records: int = 0, log_bytes: int = 0, staged_bytes: int = 0) -> Any:
    kept = {"outputs": range(outputs), "log": range(records), "log_bytes": log_bytes}
    return Mock(spec=StandbyView, **kept, staged_bytes=staged_bytes, staging_limit_bytes=100)


@pytest.mark.parametrize(
    ("make", "what", "limit"),
    [
        (active, "outputs", LIMITS.outputs_held),
        (active, "output_bytes", LIMITS.outputs_held_bytes),
        (active, "epochs", LIMITS.epochs_in_flight),
        (standby, "outputs", LIMITS.outputs_held),
        (standby, "records", LIMITS.log_records),
        (standby, "log_bytes", LIMITS.log_bytes),
        (standby, "staged_bytes", 100),
    ],
)
def test_whatever_grows_beyond_its_limit_is_seen(make: Any, what: str, limit: int) -> None:
    check_limits(make(**{what: limit}), LIMITS)

    with pytest.raises(InvariantViolated, match="I8"):
        check_limits(make(**{what: limit + 1}), LIMITS)


def test_a_first_copy_that_is_not_what_was_cut_is_seen() -> None:
    checker = StateChecker()
    checker.was_cut("x", 4, b"memory" + b"register")
    checker.was_copied("x", 4, b"memory")

    with pytest.raises(InvariantViolated, match="I3"):
        checker.was_copied("x", 4, b"what was there before")
