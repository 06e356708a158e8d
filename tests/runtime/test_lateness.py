"""How late a host's loop is, is remembered for a minute."""

from hypothesis import given
from hypothesis import strategies as st

from ftvm.protocol.timers import AT_ONCE
from ftvm.runtime.lateness import MEMORY_SECONDS, Lateness
from ftvm.units import Nanos

MS = 1_000_000
SECOND = 1_000_000_000
STEPS = st.lists(st.tuples(st.integers(0, 40 * SECOND), st.integers(-SECOND, 5 * SECOND)), max_size=40)


def test_a_step_in_time_or_with_nothing_due_is_not_late() -> None:
    lateness = Lateness()

    lateness.note(None, Nanos(0), Nanos(SECOND))
    lateness.note(Nanos(2 * SECOND), Nanos(0), Nanos(2 * SECOND))
    lateness.note(Nanos(4 * SECOND), Nanos(0), Nanos(3 * SECOND))

    assert lateness.worst_ms(Nanos(4 * SECOND)) == 0


def test_the_latest_step_counts_until_a_minute_has_passed() -> None:
    lateness = Lateness()

    lateness.note(Nanos(0), Nanos(0), Nanos(180 * MS))
    lateness.note(Nanos(SECOND), Nanos(0), Nanos(SECOND + 20 * MS))

    assert lateness.worst_ms(Nanos(30 * SECOND)) == 180
    assert lateness.worst_ms(Nanos(60 * SECOND)) == 20
    assert lateness.worst_ms(Nanos(70 * SECOND)) == 0


def test_what_is_due_at_once_is_late_only_from_when_that_was_told() -> None:
    """Regression: a timer that bears a time before all others made the loop late by years."""
    lateness = Lateness()

    lateness.note(AT_ONCE, Nanos(5 * SECOND), Nanos(5 * SECOND + 3 * MS))

    assert lateness.worst_ms(Nanos(6 * SECOND)) == 3


@given(steps=STEPS)
def test_it_is_the_longest_of_the_last_minute_in_bounded_room(steps: list[tuple[int, int]]) -> None:
    lateness, now = Lateness(), 0
    seen: list[tuple[int, int]] = []
    for passed_ns, late_ns in steps:
        now += passed_ns
        lateness.note(Nanos(now - late_ns), AT_ONCE, Nanos(now))
        seen.append((now // SECOND, max(0, late_ns)))

    recent = [late_ns for second, late_ns in seen if second > now // SECOND - MEMORY_SECONDS]
    assert lateness.worst_ms(Nanos(now)) == max(recent, default=0) / MS
    assert len(lateness._longest) <= MEMORY_SECONDS + 1
