"""What ran in a stretch of the past: how often each line and each function, and in the first 20 ms which function when.

The machine executes the stretch once more, counting each instruction; the counts are exact: their sum is the number of
instructions begun. Time is the machine's own, in ticks of 10 ns, with its waits. A line's count is the highest of the
instructions that begin a statement of it, as one statement may be compiled to several places.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ftvm.checkpoint import LogKind, LogRecord
from ftvm.errors import ConfigError
from ftvm.history.hooks import Counting, Jump
from ftvm.history.lines import Function, LineRow, ProgramLines
from ftvm.history.timeline import TimeMachine

__all__ = ["WINDOW_TICKS", "Coverage", "FunctionRun", "Slice", "Span", "cover"]

WINDOW_TICKS: Final = 2_000_000
"""20 ms of the machine's time: about a screen full of events."""

_STEP: Final = 16_384
"""Instructions between two readings of the counters within the window."""
_STEP_LONG: Final = 50_000_000
_HALF_BYTES: Final = 2


@dataclass(frozen=True, slots=True)
class Span:
    """From one tick of the window to another the hart was in one function, named by its number."""

    begin: int
    end: int
    function: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of the window, and how often each line ran in it: (file, line) -> count."""

    begin: int
    end: int
    lines: dict[tuple[str, int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionRun:
    """A function that ran: how many instructions of it were begun, how often its first one, and where it stands."""

    function: Function
    instructions: int
    entries: int
    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What ran between two instructions of the past.

    name       what the stretch is called, as "epoch 1200"; empty: it has no name
    functions  those that ran; segments name them by their place here
    lines      file -> line -> count, for each line that has code in a unit that ran
    segments   the window, by time; inputs came at `marks`, in ticks of the window
    """

    program: str
    first: int
    last: int
    functions: Sequence[FunctionRun]
    lines: dict[str, dict[int, int]]
    segments: Sequence[Span]
    slices: Sequence[Slice]
    marks: Sequence[tuple[int, str]]
    window_ticks: int
    elsewhere: int
    name: str = ""

    @property
    def instructions(self) -> int:
        """How many instructions were begun."""
        return self.last - self.first

    def save(self, path: str | Path, *, sources: Sequence[Path] = (), beside: "Coverage | None" = None) -> None:
        """Draw it: a .html, .svg or .lcov file, with the sources that lie below the folders given.

        beside  another stretch of the same program, to be drawn beside it; not in .lcov
        """
        from ftvm.history.picture import save_picture

        save_picture(self, Path(path), sources=sources, beside=beside)


def cover(past: TimeMachine, first: int, last: int, *, program: Path | None = None) -> Coverage:
    """Execute the past from instruction `first` to `last` once more, and return what ran.

    program     its ELF file, with symbols; without one, the time machine's
    Raises ConfigError if there is no program, or nothing lies between the two.
    """
    path = program or past.program
    if path is None:
        raise ConfigError("say which program ran: its ELF file with symbols and line numbers")
    begin, end = max(first, past.start), min(last, past.end)
    if begin >= end:
        raise ConfigError(
            f"nothing lies between instruction {first} and {last}; the past goes from {past.start} to {past.end}"
        )
    return _Recorder(past, ProgramLines(path)).run(path.name, begin, end)


@dataclass(slots=True)
class _Readings:
    """The counts of all code of the program, in a list per range of code."""

    code: Sequence[tuple[int, int]]
    lists: list[list[int]] = field(default_factory=list)

    def read(self, counting: Counting) -> "_Readings":
        lists = [counting.counts(begin, end - begin) for begin, end in self.code]
        return _Readings(self.code, lists)

    def add(self, other: "_Readings") -> "_Readings":
        if not self.lists:
            return other
        pairs = zip(self.lists, other.lists, strict=True)
        return _Readings(self.code, [[a + b for a, b in zip(mine, theirs, strict=True)] for mine, theirs in pairs])

    def at(self, address: int) -> int:
        for (begin, end), counts in zip(self.code, self.lists, strict=True):
            if begin <= address < end - 1:
                return counts[(address - begin) // _HALF_BYTES]
        return 0

    def within(self, function: Function) -> int:
        for (begin, end), counts in zip(self.code, self.lists, strict=True):
            if begin <= function.address < end:
                at = (function.address - begin) // _HALF_BYTES
                return sum(counts[at : at + -(-function.size_bytes // _HALF_BYTES)])
        return 0

    def total(self) -> int:
        return sum(map(sum, self.lists))


class _Recorder:
    """Executes a stretch and gathers what is told."""

    def __init__(self, past: TimeMachine, lines: ProgramLines) -> None:
        self._past = past
        self._lines = lines
        self._code = tuple(one for one in lines.code if past.read(one[0], one[1] - one[0]) is not None)

    def run(self, program: str, first: int, last: int) -> Coverage:
        self._past.go(first)
        start = self._past.position
        jumps: list[Jump] = []
        readings: list[tuple[int, _Readings]] = []
        begun_in, begins_at = self._past.register(32), start.retired + start.idled
        inputs_before = self._past.moment.inputs
        with self._past.hooks.counting(jumps_max=2 * _STEP) as counting:
            while self._ticks() - begins_at < WINDOW_TICKS and self._past.moment.retired < last:
                step = min(_STEP, begins_at + WINDOW_TICKS - self._ticks())  # an instruction takes a tick at least
                self._past.execute(min(self._past.moment.retired + step, last))
                jumps += counting.take_jumps()[0]
                readings.append((self._ticks() - begins_at, _Readings(self._code).read(counting)))
        counts = readings[-1][1]
        window_ticks = min(self._ticks() - begins_at, WINDOW_TICKS)  # it may end in the midst of a long wait
        inputs = self._past.inputs[inputs_before : self._past.moment.inputs]
        if self._past.moment.retired < last:
            counts = counts.add(self._rest(last))
        rows = self._lines.rows(function.address for function in self._lines.functions if counts.within(function))
        functions, numbers = self._functions(counts, rows)
        return Coverage(
            program=program,
            first=first,
            last=last,
            functions=functions,
            lines=_lines_of(rows, counts),
            segments=tuple(self._segments(begun_in, start.idled, begins_at, window_ticks, jumps, inputs, numbers)),
            slices=tuple(_slices_of(rows, readings)),
            marks=tuple(mark for mark in _marks_of(inputs, begins_at) if mark[0] <= window_ticks),
            window_ticks=window_ticks,
            elsewhere=last - first - counts.total(),
        )

    def _ticks(self) -> int:
        position = self._past.position
        return position.retired + position.idled

    def _rest(self, last: int) -> _Readings:
        """Count what comes behind the window, without a trace."""
        with self._past.hooks.counting() as counting:
            while self._past.moment.retired < last:
                self._past.execute(min(self._past.moment.retired + _STEP_LONG, last))
            return _Readings(self._code).read(counting)

    def _functions(self, counts: _Readings, rows: Sequence[LineRow]) -> tuple[list[FunctionRun], dict[int, int]]:
        """Return the functions that ran, and by the number of each among all its number among those."""
        places = [row.address for row in rows]
        functions: list[FunctionRun] = []
        numbers: dict[int, int] = {}
        for number, function in enumerate(self._lines.functions):
            instructions = counts.within(function)
            if not instructions:
                continue
            at = bisect_left(places, function.address)
            row = rows[at] if at < len(rows) and rows[at].address == function.address else None
            numbers[number] = len(functions)
            functions.append(
                FunctionRun(
                    function=function,
                    instructions=instructions,
                    entries=counts.at(function.address),
                    file=row.file if row is not None else "",
                    line=row.line if row is not None else 0,
                )
            )
        return functions, numbers

    def _segments(
        self,
        begun_in: int,
        idled: int,
        origin: int,
        window_ticks: int,
        jumps: Iterable[Jump],
        inputs: Iterable[LogRecord],
        numbers: dict[int, int],
    ) -> Iterator[Span]:
        """Yield which function ran when: it changes at a jump, and pauses while the hart waits."""
        clocks = [record for record in inputs if record.kind is LogKind.CLOCK]
        now = numbers.get(self._number_at(begun_in))
        begin, next_clock = 0, 0

        def piece(end: int) -> Iterator[Span]:
            end = min(end, window_ticks)
            if now is not None and end > begin:
                yield Span(begin, end, now)

        for jump in jumps:
            while next_clock < len(clocks) and clocks[next_clock].position.retired <= jump.retired:
                record = clocks[next_clock]
                yield from piece(record.position.retired + idled - origin)
                idled += record.amount
                begin = record.position.retired + idled - origin
                next_clock += 1
            function = numbers.get(self._number_at(jump.target))
            if function != now:
                yield from piece(jump.retired + idled - origin)
                now, begin = function, jump.retired + idled - origin
        for record in clocks[next_clock:]:
            yield from piece(record.position.retired + idled - origin)
            idled += record.amount
            begin = record.position.retired + idled - origin
        yield from piece(window_ticks)

    def _number_at(self, address: int) -> int:
        number = self._lines.function_at(address)
        return -1 if number is None else number


def _lines_of(rows: Iterable[LineRow], counts: _Readings) -> dict[str, dict[int, int]]:
    lines: dict[str, dict[int, int]] = {}
    for row in rows:
        of_file = lines.setdefault(row.file, {})
        of_file[row.line] = max(of_file.get(row.line, 0), counts.at(row.address))
    return lines


def _slices_of(rows: Sequence[LineRow], readings: Sequence[tuple[int, _Readings]]) -> Iterator[Slice]:
    begin = 0
    before: dict[int, int] = {}
    for end, counts in readings:
        now = {row.address: counts.at(row.address) for row in rows}
        lines: Counter[tuple[str, int]] = Counter()
        for row in rows:  # several lines may have one address
            if rise := now[row.address] - before.get(row.address, 0):
                lines[row.file, row.line] = max(lines[row.file, row.line], rise)
        yield Slice(begin, min(end, WINDOW_TICKS), dict(lines))
        begin, before = end, now


def _marks_of(inputs: Iterable[LogRecord], origin: int) -> Iterator[tuple[int, str]]:
    for record in inputs:
        if record.kind is LogKind.INPUT:
            yield record.position.retired + record.position.idled - origin, record.channel
