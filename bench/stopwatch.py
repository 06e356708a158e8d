"""What a benchmark puts between a guest and its host: it times each output from the emission until it has left.

It uses public names alone, and takes no figure from ftvm: so a release of before is measured by the same watch.
"""

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic_ns
from typing import Any, Protocol

from figures import Histogram

import ftvm
from ftvm.checkpoint import LogKind, LogRecord

TIMES_KEPT = 65_536
"""Of outputs that have not left, a turn's together: a guest that follows emits outputs that leave elsewhere."""


class Stopwatch:
    """Emissions that have not left, and how long those took that have."""

    def __init__(self) -> None:
        self.delays = Histogram()
        self.left = 0
        self._emitted: deque[tuple[int, int, int]] = deque(maxlen=TIMES_KEPT)

    def emitted(self, number: int) -> None:
        self._emitted.append((number, number, monotonic_ns()))

    def emitted_together(self, first: int, behind: int, now: int) -> None:
        if first < behind:
            self._emitted.append((first, behind - 1, now))

    def released(self, last: int, count: int = 1) -> None:
        """Note that so many outputs have left together, the last of them of that number."""
        self.left += count
        now = monotonic_ns()
        while self._emitted and self._emitted[0][0] <= last:
            lowest, highest, at = self._emitted.popleft()
            if highest > last:
                self._emitted.appendleft((last + 1, highest, at))
            known = min(highest, last) + 1 - max(lowest, last + 1 - count)
            if known > 0:
                self.delays.add(now - at, known)


class NumberedSink(ftvm.OutputSink, Protocol):
    """The sink of a host, which tells the number of the next output."""

    @property
    def output_next(self) -> int: ...

    def hand_on(self, happened: Any) -> None: ...


class TimedSink:
    """Hands all on to a host's sink, and times the outputs."""

    def __init__(self, sink: Any, watch: Stopwatch) -> None:
        self._sink: NumberedSink = sink
        self._watch = watch
        self.took_input = sink.took_input
        self.moved_clock = sink.moved_clock
        self.warn: Callable[[str], None] = getattr(sink, "warn", print)

    def emit(self, channel: str, payload: bytes, position: ftvm.GuestPosition | None = None) -> None:
        self._watch.emitted(self._sink.output_next)
        self._sink.emit(channel, payload, position)

    def hand_on(self, happened: Any) -> None:
        """Take a turn's rows together; an ftvm of before asks for no such thing."""
        first, now = self._sink.output_next, monotonic_ns()
        self._sink.hand_on(happened)
        self._watch.emitted_together(first, self._sink.output_next, now)


class TimedGuest(ftvm.RiscvGuest):
    """The built-in machine whose outputs are timed. `ran_at` is when it first ran here, None before."""

    def __init__(self, program: bytes | None, **options: Any) -> None:
        self.watch = Stopwatch()
        self.ran_at: int | None = None
        super().__init__(program, **options)

    def resume(self) -> None:
        super().resume()
        if self.ran_at is None:
            self.ran_at = monotonic_ns()

    def attach(self, sink: ftvm.OutputSink) -> None:
        super().attach(TimedSink(sink, self.watch))


class TimedWorld:
    """A world that stops the watch when an output has left."""

    def __init__(self, world: Any, watch: Stopwatch) -> None:
        self._world = world
        self._watch = watch
        self.fds, self.receive, self.announce, self.close = world.fds, world.receive, world.announce, world.close

    def release(self, output: ftvm.Output) -> None:
        self._world.release(output)
        self._watch.released(output.number)

    def release_all(self, outputs: Sequence[ftvm.Output]) -> None:
        together = getattr(self._world, "release_all", None)
        if together is None:
            for output in outputs:
                self.release(output)
            return
        together(outputs)
        if count := len(outputs):
            # A table of outputs says which is the last; an ftvm of before has them in a list.
            self._watch.released(getattr(outputs, "last", 0) or outputs[-1].number, count)


class LooseSink:
    """Lets each output out at once, in the guest's thread: nothing of ftvm stands in a guest's way. `log` is kept if
    wanted, to be replayed."""

    def __init__(self, world: Any, *, is_logging: bool = False) -> None:
        self.log: list[LogRecord] = []
        self.said = 0
        self._world = world
        self._is_logging = is_logging

    def emit(self, channel: str, payload: bytes, position: ftvm.GuestPosition | None = None) -> None:
        self.said += 1
        self._world.release(ftvm.Output(number=self.said, channel=channel, payload=payload))
        if position is not None:
            self._log(LogKind.OUTPUT, position, amount=self.said)

    def took_input(self, position: ftvm.GuestPosition, channel: str, payload: bytes) -> None:
        self._log(LogKind.INPUT, position, channel=channel, payload=payload)

    def moved_clock(self, position: ftvm.GuestPosition, amount: int) -> None:
        self._log(LogKind.CLOCK, position, amount=amount)

    def warn(self, reason: str) -> None:
        print(reason)

    def may_wait(self, reason: str) -> bool:
        return bool(reason)

    def _log(
        self, kind: LogKind, position: ftvm.GuestPosition, *, amount: int = 0, channel: str = "", payload: bytes = b""
    ) -> None:
        if self._is_logging:
            self.log.append(
                LogRecord(
                    index=len(self.log) + 1,
                    kind=kind,
                    position=position,
                    amount=amount,
                    channel=channel,
                    payload=payload,
                )
            )
