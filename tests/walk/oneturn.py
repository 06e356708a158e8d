"""Has a simulated guest do all that it is asked in one turn, as the built-in machine's C core does."""

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord, Output, OutputTable
from ftvm.logtable import LogTable
from ftvm.runtime.sink import NumberingSink
from ftvm.sim.guest import SimGuest


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

    def want_cut(self) -> None: ...

    def _note(
        self, kind: LogKind, position: GuestPosition, *, amount: int = 0, channel: str = "", payload: bytes = b""
    ) -> None:
        index = self._sink.log_index + 1 + len(self._log)
        record = LogRecord(index=index, kind=kind, position=position, amount=amount, channel=channel, payload=payload)
        self._log.append(record)
