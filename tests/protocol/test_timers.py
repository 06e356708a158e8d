"""The table of what is due by time: ticks and deadlines read the same rows."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from ftvm.protocol.timers import AT_ONCE, NEVER, Timers, act_on
from ftvm.units import Nanos


@dataclass
class State:
    due: list[Nanos]
    acted: list[int] = field(default_factory=list)
    sleeps: frozenset[int] = frozenset()

    def all_due(self) -> tuple[Nanos, ...]:
        worth_waking = (at for number, at in enumerate(self.due) if number not in self.sleeps)
        return (*self.due, min(worth_waking, default=NEVER))

    def act(self, number: int) -> None:
        self.acted.append(number)
        self.due[number] = NEVER


ROWS: Timers[State] = Timers(
    State.all_due,
    (
        lambda state, _: state.act(0),
        lambda state, _: state.act(1),
        lambda state, _: state.act(2),
        lambda state, _: state.act(3),
    ),
    apart_from=3,
)
TIMES = st.lists(st.just(NEVER) | st.integers(-5, 5).map(Nanos), min_size=4, max_size=4)


@given(due=TIMES, now=st.integers(-5, 5).map(Nanos), sleeps=st.frozensets(st.integers(0, 3)))
def test_what_is_due_is_done_in_order_and_the_rest_waits(due: list[Nanos], now: Nanos, sleeps: frozenset[int]) -> None:
    state = State(list(due), sleeps=sleeps)

    act_on(ROWS, state, state.all_due(), now)

    assert state.acted == [number for number, at in enumerate(due) if at <= now]


def test_what_one_row_does_may_leave_the_next_nothing_to_do() -> None:
    state = State([AT_ONCE, AT_ONCE])
    rows: Timers[State] = Timers(
        State.all_due,
        (lambda it, _: it.due.__setitem__(slice(0, 2), [NEVER, NEVER]), lambda it, _: it.act(1)),
        apart_from=1,
    )

    act_on(rows, state, state.all_due(), Nanos(0))

    assert state.acted == []


def test_what_one_row_does_may_make_the_next_due() -> None:
    state = State([AT_ONCE, NEVER])
    rows: Timers[State] = Timers(
        State.all_due,
        (lambda it, _: it.due.__setitem__(slice(0, 2), [NEVER, AT_ONCE]), lambda it, _: it.act(1)),
        apart_from=1,
    )

    act_on(rows, state, state.all_due(), Nanos(0))

    assert state.acted == [1]
