"""Where outputs enter: numbered in order, and nothing gets in while the guest is not active here."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.checkpoint import NO_OUTPUTS, GuestPosition, LogKind, LogRecord, Output, OutputTable
from ftvm.logtable import LogTable
from ftvm.runtime.sink import NumberingSink
from ftvm.testing.pair import ManualClock


def make_sink() -> tuple[NumberingSink, list[None], Callable[[], list[int]]]:
    woken: list[None] = []
    sink = NumberingSink(lambda: woken.append(None), ManualClock())
    return sink, woken, lambda: [output.number for output, _ in sink.drain().outputs]


@given(st.lists(st.one_of(st.just("drain"), st.binary(max_size=4))), st.integers(1, 1 << 40))
def test_numbers_rise_by_one_over_all_channels(steps: list[str | bytes], first: int) -> None:
    sink, _, drained = make_sink()
    sink.open(first, 1, is_logging=False)
    seen: list[int] = []
    for place, step in enumerate(steps):
        if isinstance(step, str):
            seen += drained()
        else:
            sink.emit(f"channel{place % 3}", step)
    seen += drained()

    assert seen == list(range(first, first + len(seen)))
    assert sink.output_next == first + len(seen)


WAYS: dict[str, Callable[[NumberingSink], None]] = {
    "an output": lambda sink: sink.emit("net0", b"x"),
    "an input that is not logged": lambda sink: sink.took_input(GuestPosition(1, 0), "net0", b"frame"),
    "a step of the clock that is not logged": lambda sink: sink.moved_clock(GuestPosition(1, 0), 5),
    "a turn": lambda sink: sink.hand_on(NoTurn()),
}


class NoTurn:
    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        del output_next
        step = LogRecord(index=log_next, kind=LogKind.CLOCK, position=GuestPosition(1, 0), amount=1)
        return LogTable.of([step]), NO_OUTPUTS


@pytest.mark.parametrize("way", WAYS)
def test_a_watched_sink_tells_once_that_the_guest_goes_on(way: str) -> None:
    sink, woken, _ = make_sink()
    sink.open(1, 1, is_logging=False)
    sink.is_watched = True

    WAYS[way](sink)
    told = sink.has_stirred
    sink.has_stirred = False
    sink.moved_clock(GuestPosition(2, 0), 5)

    assert (told, sink.has_stirred) == (True, False)
    assert woken


def test_a_sink_that_nobody_watches_wakes_nobody_for_what_is_not_logged() -> None:
    sink, woken, _ = make_sink()
    sink.open(1, 1, is_logging=False)

    sink.hand_on(NoTurn())
    sink.moved_clock(GuestPosition(1, 0), 5)

    assert (woken, sink.has_stirred) == ([], False)


def test_a_sink_is_born_closed() -> None:
    sink, woken, drained = make_sink()

    sink.emit("net0", b"x")

    assert drained() == []
    assert not woken


def test_closing_throws_away_what_is_here_and_what_comes() -> None:
    sink, _, drained = make_sink()
    sink.open(5, 1, is_logging=True)
    sink.emit("net0", b"x")

    sink.close()
    sink.emit("net0", b"y")
    sink.took_input(GuestPosition(1, 0), "net0", b"frame")
    sink.moved_clock(GuestPosition(1, 0), 5)

    assert drained() == []
    assert (list(sink.drain().log), sink.log_index) == ([], 0)


def test_opening_again_forgets_what_an_earlier_run_said() -> None:
    sink, _, drained = make_sink()
    sink.open(1, 1, is_logging=False)
    sink.emit("net0", b"x")

    sink.open(9, 1, is_logging=False)
    sink.emit("net0", b"y")

    assert drained() == [9]


def test_the_driver_is_woken_once_for_each_batch() -> None:
    sink, woken, drained = make_sink()
    sink.open(1, 1, is_logging=False)
    for _ in range(3):
        sink.emit("net0", b"x")
    drained()
    sink.emit("net0", b"x")

    assert len(woken) == 2


def test_each_output_is_logged_where_it_was_made_and_comes_with_the_index_of_its_record() -> None:
    sink, _, _ = make_sink()
    sink.open(7, 20, is_logging=True)

    sink.took_input(GuestPosition(100, 0), "net0", b"frame")
    sink.emit("net0", b"answer", GuestPosition(150, 0))
    sink.moved_clock(GuestPosition(150, 0), 900)
    drained = sink.drain()

    assert [(record.index, record.kind, record.amount) for record in drained.log] == [
        (20, LogKind.INPUT, 0),
        (21, LogKind.OUTPUT, 7),
        (22, LogKind.CLOCK, 900),
    ]
    assert [(output.number, log_index) for output, log_index in drained.outputs] == [(7, 21)]
    assert (sink.output_next, sink.log_index) == (8, 22)


Happened = tuple[LogKind, str, GuestPosition, int, bytes]


class Told:
    """A turn, packed in Python: what the C core does for the built-in machine (tests/guests/riscv/test_turn.py)."""

    def __init__(self, turn: list[Happened]) -> None:
        self._turn = turn

    def packed(self, log_next: int, output_next: int) -> tuple[LogTable, OutputTable]:
        records: list[LogRecord] = []
        outputs: list[Output] = []
        for index, (kind, channel, position, ticks, payload) in enumerate(self._turn, log_next):
            known: Any = {"index": index, "kind": kind, "position": position}
            if kind is LogKind.OUTPUT:
                number = output_next + len(outputs)
                outputs.append(Output(number=number, channel=channel, payload=payload))
                records.append(LogRecord(**known, amount=number))
            elif kind is LogKind.INPUT:
                records.append(LogRecord(**known, channel=channel, payload=payload))
            else:
                records.append(LogRecord(**known, amount=ticks))
        return LogTable.of(records), OutputTable.of(outputs)


HAPPENED = st.tuples(
    st.sampled_from(LogKind),
    st.sampled_from(["net0", "console"]),
    st.builds(GuestPosition, st.integers(0, 9), st.integers(0, 9)),
    st.integers(1, 9),
    st.binary(max_size=4),
)


@given(st.lists(st.lists(HAPPENED, max_size=6), max_size=4), st.booleans())
def test_a_turn_handed_on_together_is_what_it_is_one_by_one_but_that_its_outputs_need_all_its_records(
    turns: list[list[Happened]], is_logging: bool
) -> None:
    together, apart = make_sink()[0], make_sink()[0]
    for sink in (together, apart):
        sink.open(7, 20, is_logging=is_logging)
    needs: list[int] = []

    for turn in turns:
        together.hand_on(Told(turn))
        for kind, channel, position, amount, payload in turn:
            if kind is LogKind.OUTPUT:
                apart.emit(channel, payload, position)
            elif kind is LogKind.INPUT:
                apart.took_input(position, channel, payload)
            else:
                apart.moved_clock(position, amount)
        needs += [apart.log_index] * sum(kind is LogKind.OUTPUT for kind, *_ in turn)

    assert (together.output_next, together.log_index) == (apart.output_next, apart.log_index)
    group, single = together.drain(), apart.drain()
    assert group.log == single.log
    assert [output for output, _ in group.outputs] == [output for output, _ in single.outputs]
    assert [index for _, index in group.outputs] == needs
    assert all(last >= own for (_, last), (_, own) in zip(group.outputs, single.outputs, strict=True))


def test_a_turn_that_is_handed_on_wakes_once_and_gives_each_output_a_time() -> None:
    sink, woken, drained = make_sink()
    said = (LogKind.OUTPUT, "net0", GuestPosition(1, 0), 0, b"x")
    sink.hand_on(Told([said]))
    sink.open(1, 1, is_logging=False)

    sink.hand_on(Told([]))
    sink.hand_on(Told([said, said]))
    sink.hand_on(Told([said]))

    assert len(woken) == 1
    assert drained() == [1, 2, 3]
    assert sink.take_times(2, 2) == [(1, ManualClock().now())], "one of two that were said together"
    assert [count for count, _ in sink.take_times(1, 3)] == [1]


def test_nobody_is_woken_for_a_turn_that_is_heard_while_it_is_handed_on() -> None:
    sink, woken, drained = make_sink()
    sink.open(1, 1, is_logging=False)
    said = (LogKind.OUTPUT, "net0", GuestPosition(1, 0), 0, b"x")

    sink.is_heard = True
    sink.hand_on(Told([said]))
    sink.is_heard = False

    assert not woken
    assert drained() == [1]
    sink.hand_on(Told([said]))
    assert len(woken) == 1


def test_nobody_is_woken_for_an_output_that_is_heard_while_it_is_emitted() -> None:
    sink, woken, drained = make_sink()
    sink.open(1, 1, is_logging=False)

    sink.is_heard = True
    sink.emit("net0", b"x")
    sink.is_heard = False

    assert not woken
    assert drained() == [1]
    sink.emit("net0", b"y")
    assert len(woken) == 1


def test_where_outputs_of_a_turn_were_made_is_known_as_told() -> None:
    sink = make_sink()[0]
    sink.open(1, 1, is_logging=False)
    here, there = GuestPosition(5, 0), GuestPosition(9, 0)
    said = (LogKind.OUTPUT, "net0", here, 0, b"x")

    sink.hand_on(Told([said, said, said]))
    sink.made_from(here, 2)

    assert (sink.made_at(here), sink.made_at(there)) == (range(2, 4), range(4, 4))
    sink.emit("net0", b"y", here)
    assert sink.made_at(here) == range(2, 5)
    sink.made_from(there, 5)
    assert (sink.made_at(here), sink.made_at(there)) == (range(5, 5), range(5, 5))


def test_what_is_put_back_comes_first_and_nothing_is_no_news() -> None:
    sink, _, drained = make_sink()
    sink.open(1, 1, is_logging=False)
    sink.put_back(sink.drain())
    assert not sink.items
    sink.emit("net0", b"x")
    taken = sink.drain()
    sink.emit("net0", b"y")

    sink.put_back(taken)

    assert drained() == [1, 2]


def test_nothing_is_logged_unless_asked_for() -> None:
    sink, _, _ = make_sink()
    sink.open(1, 1, is_logging=False)

    sink.took_input(GuestPosition(1, 0), "net0", b"frame")
    sink.moved_clock(GuestPosition(1, 0), 5)
    sink.emit("net0", b"answer", GuestPosition(2, 0))

    assert sink.drain().log == []
    assert sink.log_index == 0


def test_warnings_are_kept_while_nothing_else_gets_in_and_taken_once() -> None:
    sink, woken, _ = make_sink()

    for number in range(20):
        sink.warn(f"{number}")

    assert woken
    assert sink.take_warnings() == [f"{number}" for number in range(4, 20)], "the newest sixteen"
    assert sink.take_warnings() == []


def test_the_time_of_an_output_is_that_of_its_emission_and_is_told_once() -> None:
    clock = ManualClock(0)
    sink = NumberingSink(lambda: None, clock)
    sink.open(5, 1, is_logging=False)
    for _ in range(3):
        clock.elapse(1)
        sink.emit("net0", b"x")
    sink.drain()

    taken = [sink.take_times(first, last) for first, last in ((4, 4), (5, 6), (5, 6), (7, 8), (8, 8))]
    assert taken == [[], [(1, 1_000_000), (1, 2_000_000)], [], [(1, 3_000_000)], []]


def test_times_of_outputs_that_leave_elsewhere_do_not_pile_up() -> None:
    sink, _, _ = make_sink()
    sink.open(1, 1, is_logging=False)

    for _ in range(5_000):
        sink.emit("net0", b"x")

    assert sink.take_times(1, 1) == []
    assert len(sink.take_times(2, 5_000)) == 4_096


def test_a_sink_that_is_opened_again_knows_no_time_of_the_run_before() -> None:
    sink, _, _ = make_sink()
    sink.open(1, 1, is_logging=False)
    sink.emit("net0", b"x")

    sink.open(1, 1, is_logging=False)

    assert sink.take_times(1, 1) == []


def test_an_output_that_comes_while_the_loop_takes_the_last_one_wakes_it_again() -> None:
    sink, woken, drained = make_sink()
    sink.open(1, 1, is_logging=False)
    sink.emit("net0", b"x")

    class DrainedFirst(deque[Any]):
        """The loop's thread comes in between: it has taken all there was when the guest's thread appends."""

        def append(self, item: Any) -> None:
            drained()
            super().append(item)

    sink.items = DrainedFirst(sink.items)
    sink.emit("net0", b"y")

    assert len(sink.items) == 1
    assert len(woken) == 2


def test_a_guest_that_asks_for_a_cut_wakes_whoever_orders_it() -> None:
    sink, woken, _ = make_sink()

    sink.want_cut()

    assert sink.is_cut_wanted
    assert len(woken) == 1


def test_an_output_that_is_logged_comes_with_whether_the_guest_has_flushed_as_known_behind_it() -> None:
    """Mutants: the look comes before the outputs; who logs nothing pays for a look."""
    sink = NumberingSink(lambda: None, ManualClock())
    looked: list[int] = []

    def has_flush() -> bool:
        looked.append(len(sink.items))
        return True

    sink.has_flush = has_flush
    told = []
    for is_logging in (False, True):
        sink.open(1, 1, is_logging=is_logging)
        told.append(sink.drain().has_flush)
        sink.emit("net0", b"safe", GuestPosition(1, 0))
        told.append(sink.drain().has_flush)

    assert told == [False, False, False, True]
    assert looked == [0]
