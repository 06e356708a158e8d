"""Each change of the record, exactly where docs/protocol.md, "Changes of the record", allows it."""

from collections.abc import Callable

import pytest
from hypothesis import given

from ftvm.errors import InternalError
from ftvm.interfaces import Record
from ftvm.protocol.record import NO_RECORD, add, drop, is_vacant, start, switch, take, vacate

from ..strategies import records

X, Y, Z = "x", "y", "z"

EVERYBODY = [Record(4, active, standby) for active in (None, X, Y, Z) for standby in (None, X, Y, Z)]

CHANGES: dict[str, tuple[Callable[[Record], Record], Callable[[Record], bool], tuple[str, str | None]]] = {
    "START": (lambda record: start(record, X), lambda record: record.active is None, (X, None)),
    "ADD": (lambda record: add(record, X, Z), lambda record: record.active == X and record.standby != Z, (X, Z)),
    "DROP": (
        lambda record: drop(record, X),
        lambda record: record.active == X and record.standby is not None,
        (X, None),
    ),
    "TAKE": (lambda record: take(record, Y), lambda record: record.standby == Y, (Y, None)),
}


@pytest.mark.parametrize("record", EVERYBODY, ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_allowed_exactly_where_the_protocol_says(change: str, record: Record) -> None:
    propose, is_allowed, (active, standby) = CHANGES[change]

    if is_allowed(record):
        assert propose(record) == Record(5, active, standby)
    else:
        with pytest.raises(InternalError, match=f"{change} is not allowed"):
            propose(record)


@pytest.mark.parametrize("record", EVERYBODY, ids=str)
def test_only_the_active_switches_and_only_with_its_standby(record: Record) -> None:
    if record.active == X and record.standby is not None:
        assert switch(record, X) == Record(5, record.standby, X)
    else:
        with pytest.raises(InternalError, match="SWITCH is not allowed"):
            switch(record, X)


def test_nobody_is_added_as_his_own_standby() -> None:
    with pytest.raises(InternalError):
        add(Record(1, X, None), X, X)


def test_the_first_record_is_generation_1() -> None:
    assert start(NO_RECORD, X) == Record(1, X, None)


@given(records())
def test_an_operator_may_vacate_any_record(record: Record) -> None:
    vacant = vacate(record)

    assert is_vacant(vacant)
    assert vacant == Record(record.generation + 1, None, None)
    assert start(vacant, X) == Record(record.generation + 2, X, None)
