"""Who fails again and again is ignored, each time for longer; nobody else is."""

from ftvm.protocol.detector import Backoff
from ftvm.units import Nanos

NOW = 7_000


def impatient() -> Backoff:
    return Backoff(tolerated=2, first_ns=Nanos(10), longest_ns=Nanos(50))


def strikes(backoff: Backoff, count: int, name: str = "x", *, apart: int = 0) -> list[int]:
    return [backoff.strike(name, Nanos(NOW + apart * number)) for number in range(count)]


def test_the_first_failures_cost_nothing_and_later_ones_double() -> None:
    assert strikes(impatient(), 7) == [0, 0, 10, 20, 40, 50, 50]


def test_who_is_ignored_is_borne_with_again_when_the_time_is_over() -> None:
    backoff = impatient()
    strikes(backoff, 3)

    assert backoff.ignored_ns("x", Nanos(NOW)) == 10
    assert backoff.ignored_ns("x", Nanos(NOW + 9)) == 1
    assert backoff.ignored_ns("x", Nanos(NOW + 10)) == 0
    assert backoff.ignored_ns("y", Nanos(NOW)) == 0


def test_failures_long_ago_are_forgotten() -> None:
    backoff = impatient()
    strikes(backoff, 3)

    assert backoff.strike("x", Nanos(NOW + 59)) == 20
    assert backoff.strike("x", Nanos(NOW + 59 + 70)) == 0


def test_a_flood_of_names_is_bounded_and_forgets_the_oldest() -> None:
    backoff = impatient()
    strikes(backoff, 3)

    for number in range(2_000):
        backoff.strike(str(number), Nanos(NOW))

    assert len(backoff.records) == 1024
    assert backoff.ignored_ns("x", Nanos(NOW)) == 0


def test_any_number_of_failures_can_be_counted() -> None:
    assert strikes(impatient(), 10_000)[-1] == 50
