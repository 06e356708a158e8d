"""Has a simulated guest do by one call what the built-in machine does so: all that it is asked; all that a log says."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord, Output, OutputTable
from ftvm.interfaces import Capability
from ftvm.logtable import NO_LOG, LogTable
from ftvm.runtime.sink import NumberingSink
from ftvm.sim.guest import SimGuest
from ftvm.testing.transcript import Transcript


class OneTurn:
    """What a guest made of requests that came together, packed for its sink: `hand_on` gives it all of that."""

    def __init__(self, guest: SimGuest, requests: int) -> None:
        sink = guest._sink
        assert isinstance(sink, NumberingSink)
        self._sink = sink
        self._log: list[LogRecord] = []
        self._outputs: list[Output] = []
        guest.attach(self)
        for _ in range(requests):
            guest.deliver("net0", b"request")
            guest.advance()
        guest.attach(self._sink)
        self._packed = LogTable.of(self._log), OutputTable.of(self._outputs)

    def hand_on(self) -> None:
        self._sink.hand_on(self)

    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        log, outputs = self._packed
        assert (log.first, outputs.first) == (log_next, output_next)
        return log, outputs

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        number = self._sink.output_next + len(self._outputs)
        self._outputs.append(Output(number=number, channel=channel, payload=payload))
        if position is not None:
            self._note(LogKind.OUTPUT, position, amount=number)

    def took_input(self, position: GuestPosition, channel: str, payload: bytes) -> None:
        self._note(LogKind.INPUT, position, channel=channel, payload=payload)

    def moved_clock(self, position: GuestPosition, amount: int) -> None:
        self._note(LogKind.CLOCK, position, amount=amount)

    def warn(self, reason: str) -> None:
        raise AssertionError(reason)

    def may_wait(self, reason: str) -> bool:
        raise AssertionError(reason)

    def want_cut(self) -> None: ...

    def _note(
        self, kind: LogKind, position: GuestPosition, *, amount: int = 0, channel: str = "", payload: bytes = b""
    ) -> None:
        index = self._sink.log_index + 1 + len(self._log)
        record = LogRecord(index=index, kind=kind, position=position, amount=amount, channel=channel, payload=payload)
        self._log.append(record)


class LedGuest(SimGuest):
    """A simulated guest that is led along many records by one call. A walk notes nothing of what is called for that
    before the outputs are handed on."""

    outputs = OutputTable.of(())

    @property
    def can(self) -> frozenset[Capability]:
        return super().can | {Capability.REPLAYS_GROUPS}

    def lead_along(self, log: Sequence[LogRecord], made_here: range, limit: int | None = None) -> tuple[int, int]:
        del limit
        sink, heard = self._sink, Transcript()
        assert isinstance(sink, NumberingSink)
        with _unnoted():
            self.attach(heard)
            for record in log:
                self.run_until(record.position)
                if record.kind is not LogKind.OUTPUT:
                    self.inject(record)
                elif heard.said:
                    assert heard.said[-1].position == record.position
                    assert record.amount == made_here.stop + len(heard.said) - 1
            self.attach(sink)
            said = [(number, output) for number, output in enumerate(heard.said, made_here.stop)]
            self.outputs = OutputTable.of(
                [Output(number=number, channel=output.channel, payload=output.payload) for number, output in said]
            )
            taken, here = len(log), [number for number, output in said if output.position == self.position]
        sink.hand_on(self)
        return taken, here[0] if here else sink.output_next

    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        del log_next, output_next
        return NO_LOG, self.outputs


@contextmanager
def _unnoted() -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(before)
