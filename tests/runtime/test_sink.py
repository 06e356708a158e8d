"""Where outputs enter: numbered in order, and nothing gets in while the guest is not active here."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from ftvm.runtime.sink import NumberingSink


def make_sink() -> tuple[NumberingSink, list[None], Callable[[], list[int]]]:
    woken: list[None] = []
    sink = NumberingSink(lambda: woken.append(None))
    return sink, woken, lambda: [output.number for output in sink.drain()]


@given(st.lists(st.one_of(st.just("drain"), st.binary(max_size=4))), st.integers(1, 1 << 40))
def test_numbers_rise_by_one_over_all_channels(steps: list[str | bytes], first: int) -> None:
    sink, _, drained = make_sink()
    sink.open(first)
    seen: list[int] = []
    for place, step in enumerate(steps):
        if isinstance(step, str):
            seen += drained()
        else:
            sink.emit(f"channel{place % 3}", step)
    seen += drained()

    assert seen == list(range(first, first + len(seen)))
    assert sink.output_next == first + len(seen)


def test_a_sink_is_born_closed() -> None:
    sink, woken, drained = make_sink()

    sink.emit("net0", b"x")

    assert drained() == []
    assert not woken


def test_closing_throws_away_what_is_here_and_what_comes() -> None:
    sink, _, drained = make_sink()
    sink.open(5)
    sink.emit("net0", b"x")

    sink.close()
    sink.emit("net0", b"y")

    assert drained() == []


def test_opening_again_forgets_what_an_earlier_run_said() -> None:
    sink, _, drained = make_sink()
    sink.open(1)
    sink.emit("net0", b"x")

    sink.open(9)
    sink.emit("net0", b"y")

    assert drained() == [9]


def test_the_driver_is_woken_once_for_each_batch() -> None:
    sink, woken, drained = make_sink()
    sink.open(1)
    for _ in range(3):
        sink.emit("net0", b"x")
    drained()
    sink.emit("net0", b"x")

    assert len(woken) == 2
