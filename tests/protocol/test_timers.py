"""The table of what is due by time: ticks and deadlines read the same rows."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from ftvm.protocol.timers import AT_ONCE, Timer, act_on, soonest
from ftvm.units import Nanos


@dataclass
class State:
    due: list[Nanos | None]
    acted: list[int] = field(default_factory=list)
    sleeps: frozenset[int] = frozenset()


def row(number: int) -> Timer[State]:
    def act(state: State, now: Nanos) -> None:
        del now
        state.acted.append(number)
        state.due[number] = None

    return Timer(lambda state: state.due[number], act, wakes=lambda state: number not in state.sleeps)


ROWS = tuple(map(row, range(4)))
TIMES = st.lists(st.none() | st.integers(-5, 5).map(Nanos), min_size=4, max_size=4)


@given(due=TIMES, now=st.integers(-5, 5).map(Nanos), sleeps=st.frozensets(st.integers(0, 3)))
def test_what_is_due_is_done_in_order_and_the_rest_waits(
    due: list[Nanos | None], now: Nanos, sleeps: frozenset[int]
) -> None:
    state = State(list(due), sleeps=sleeps)

    act_on(ROWS, state, now)

    assert state.acted == [number for number, at in enumerate(due) if at is not None and at <= now]
    rest = [at for number, at in enumerate(state.due) if at is not None and number not in sleeps]
    assert soonest(ROWS, state) == min(rest, default=None)


@given(due=TIMES, now=st.integers(-5, 5).map(Nanos), sleeps=st.frozensets(st.integers(0, 3)))
def test_a_tick_with_nothing_to_do_tells_the_deadline(
    due: list[Nanos | None], now: Nanos, sleeps: frozenset[int]
) -> None:
    state = State(due, sleeps=sleeps)

    told = act_on(ROWS, state, now)

    assert told == (None if state.acted else soonest(ROWS, state))


def test_what_one_row_does_may_leave_the_next_nothing_to_do() -> None:
    state = State([AT_ONCE, AT_ONCE])
    ends_all: Timer[State] = Timer(lambda it: it.due[0], lambda it, _: it.due.__setitem__(slice(0, 2), [None, None]))

    act_on((ends_all, row(1)), state, Nanos(0))

    assert state.acted == []
