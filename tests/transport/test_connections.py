"""How often the connections are measured: at each turn of an idle host, seldom but surely on a busy one."""

import pytest

from ftvm.transport.connections import Connections


class Measured:
    """A connection that only counts how often the kernel was asked of it."""

    unread = 0

    def __init__(self) -> None:
        self.times = 0

    def look(self) -> None:
        self.times += 1


@pytest.mark.parametrize(("is_busy", "times"), [(False, 80), (True, 10)])
def test_every_turn_of_an_idle_host_measures_and_every_eighth_of_a_busy_one(is_busy: bool, times: int) -> None:
    connections, connection = Connections(1000), Measured()
    connections._open[0] = connection  # type: ignore[assignment]

    for _ in range(80):
        connections.look(is_busy=is_busy)

    assert connection.times == times
