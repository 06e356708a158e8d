"""When a backup under lockstep acknowledges: a log before it is executed, a mark behind its comparison."""

from contextlib import closing

import pytest

from ftvm.checkpoint import Bitmap, LogRecord
from ftvm.encode.messages import Ack
from ftvm.engines.lockstep import Lockstep
from ftvm.testing.pair import Pair

INPUTS = 10


def test_a_log_is_acknowledged_before_it_is_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An output waits until its log is safe. Mutant: it waits until the backup's guest has made it, too."""
    acknowledged, executed = [0], list[tuple[int, int]]()

    def noted(*, log_index: int, received: int, epoch: int, memory_digest: int) -> Ack:
        acknowledged.append(log_index)
        return Ack(log_index=log_index, received=received, epoch=epoch, memory_digest=memory_digest)

    with closing(Pair(engine=Lockstep(interval=10.0)).protected()) as pair:
        inject = pair.b.guest.inject

        def injected(record: LogRecord) -> None:
            executed.append((record.index, acknowledged[-1]))
            inject(record)

        monkeypatch.setattr("ftvm.protocol.standby.Ack", noted)
        monkeypatch.setattr(pair.b.guest, "inject", injected)
        for _ in range(INPUTS):
            pair.a.guest.deliver("net0", b"input")
            pair.run(5)

    assert len(executed) == INPUTS
    assert [index for index, safe in executed if safe < index] == []


def test_a_mark_is_acknowledged_once_and_behind_its_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutant: that it came is acknowledged before, as with a log, and that it holds is once more."""
    sent, compared = list[Ack](), list[int]()

    def noted(*, log_index: int, received: int, epoch: int, memory_digest: int) -> Ack:
        sent.append(Ack(log_index=log_index, received=received, epoch=epoch, memory_digest=memory_digest))
        return sent[-1]

    with closing(Pair(engine=Lockstep(interval=0.02)).protected()) as pair:
        collect_dirty = pair.b.guest.collect_dirty

        def comparing() -> Bitmap:
            compared.append(len(sent))
            return collect_dirty()

        pair.run(10)
        monkeypatch.setattr("ftvm.protocol.standby.Ack", noted)
        monkeypatch.setattr(pair.b.guest, "collect_dirty", comparing)
        pair.run(100)

    around = [(sent[place - 1], sent[place]) for place in compared if 0 < place < len(sent)]
    assert len(around) >= 3
    assert all(before.received < behind.received for before, behind in around)
    assert all(before.epoch < behind.epoch for before, behind in around)
