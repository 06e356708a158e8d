"""What is sent when: the log beside the epochs."""

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.encode.messages import Log
from ftvm.engines.hybrid import Hybrid
from ftvm.logtable import LogTable
from ftvm.protocol.reports import Emitted
from ftvm.protocol.session import LOGS_IN_FLIGHT

from ..harness import Pair


def test_records_for_which_the_link_has_no_place_gather_and_leave_as_one_message() -> None:
    pair = Pair().protected()
    active = pair.a.active
    active.schedule.engine = active.schedule.wanted = Hybrid(interval=10.0)
    assert active.session is not None
    pair.a.sent.clear()

    for index in range(1, LOGS_IN_FLIGHT + 6):
        record = LogRecord(index=index, kind=LogKind.CLOCK, position=GuestPosition(index, 0), amount=1)
        pair.a.give(Emitted(log=LogTable.of((record,))))

    assert active.session.outbox.logs == LOGS_IN_FLIGHT
    assert not [each for each in active.session.outbox.waiting if isinstance(each, Log)]
    assert len(active.unshipped) == 5
