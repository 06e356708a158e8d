"""The log that a standby keeps for who looks on, where no takeover needs it: bounded, and gone with its epoch."""

from dataclasses import replace

import pytest

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.config import Limits
from ftvm.errors import LimitExceeded
from ftvm.logtable import LogTable
from ftvm.protocol.reports import Emitted
from ftvm.protocol.standby.commit import NotedLog

from ..harness import Pair, make_settings


def record(index: int, payload: bytes = b"typed") -> LogRecord:
    position = GuestPosition(index, 0)
    return LogRecord(index=index, kind=LogKind.INPUT, position=position, channel="console", payload=payload)


@pytest.mark.parametrize("limits", [Limits(log_records=2), Limits(log_bytes=10)])
def test_more_than_may_be_noted_is_refused(limits: Limits) -> None:
    """Mutant: an active that cuts no epoch fills the memory of a standby that records."""
    noted = NotedLog()
    noted.append(LogTable.of((record(1), record(2))), limits)

    with pytest.raises(LimitExceeded, match="log noted"):
        noted.append(LogTable.of((record(3),)), limits)


def test_what_was_noted_is_taken_once() -> None:
    noted = NotedLog()
    noted.append(LogTable.of((record(1),)), Limits())

    assert noted.take() == [record(1)]
    assert noted.take() == []
    assert noted.size_bytes == 0


@pytest.mark.parametrize("is_observed", [False, True])
def test_a_standby_notes_the_log_only_for_who_looks_on_and_no_longer_than_to_its_epoch(is_observed: bool) -> None:
    """Mutants: it is kept where nobody looks on; it is kept when its epoch was shown, and grows for ever."""
    pair = Pair(replace(make_settings(), is_observed=is_observed)).protected()
    pair.a.give(Emitted(log=LogTable.of((record(1),))))
    pair.a.active.flush(pair.now)
    pair.a.perform()
    epoch = pair.b.standby.committed.epoch or 0

    pair.carry(pair.a, pair.b)
    noted = len(pair.b.standby.noted.records)
    pair.until(lambda: (pair.b.standby.committed.epoch or 0) > epoch)

    assert noted == is_observed
    assert pair.b.standby.noted.records == []
