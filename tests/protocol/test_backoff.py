"""Who fails again and again is ignored, each time for longer; nobody else is."""

from ftvm.protocol.detector import Backoff
from ftvm.units import Nanos

NOW = 7_000


def impatient() -> Backoff:
    return Backoff(tolerated=2, first_ns=Nanos(10), longest_ns=Nanos(50))


def strikes(patience: Backoff, count: int, name: str = "x", *, apart: int = 0) -> list[int]:
    return [patience.strike(name, Nanos(NOW + apart * number)) for number in range(count)]


def test_the_first_failures_cost_nothing_and_later_ones_double() -> None:
    assert strikes(impatient(), 7) == [0, 0, 10, 20, 40, 50, 50]


def test_who_is_ignored_is_borne_with_again_when_the_time_is_over() -> None:
    patience = impatient()
    strikes(patience, 3)

    assert patience.ignored_ns("x", Nanos(NOW)) == 10
    assert patience.ignored_ns("x", Nanos(NOW + 9)) == 1
    assert patience.ignored_ns("x", Nanos(NOW + 10)) == 0
    assert patience.ignored_ns("y", Nanos(NOW)) == 0


def test_failures_long_ago_are_forgotten_and_so_are_those_that_were_forgiven() -> None:
    patience = impatient()
    strikes(patience, 3)

    assert patience.strike("x", Nanos(NOW + 59)) == 20
    assert patience.strike("x", Nanos(NOW + 59 + 70)) == 0

    strikes(patience, 5)
    patience.forgive("x")

    assert patience.ignored_ns("x", Nanos(NOW)) == 0
    assert patience.strike("x", Nanos(NOW)) == 0


def test_a_flood_of_names_is_bounded_and_forgets_the_oldest() -> None:
    patience = impatient()
    strikes(patience, 3)

    for number in range(2_000):
        patience.strike(str(number), Nanos(NOW))

    assert len(patience._records) == 1024
    assert patience.ignored_ns("x", Nanos(NOW)) == 0


def test_any_number_of_failures_can_be_counted() -> None:
    assert strikes(impatient(), 10_000)[-1] == 50
