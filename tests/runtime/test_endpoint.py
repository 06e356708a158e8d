"""An endpoint does what was signalled; the rest it looks at when it was woken for nothing, and once in a while."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from ftvm.config import Limits
from ftvm.interfaces import Lane
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.services import LOOK_NS
from ftvm.transport.memory import MemoryNetwork, MemoryTransport
from ftvm.units import Nanos


@dataclass(eq=False)
class StubDriver:
    """Notes how it was stepped."""

    world_fds: tuple[int, ...] = ()
    news: Any = field(default_factory=lambda: SimpleNamespace(items=[], has_stirred=False))
    rounds: list[bool] = field(default_factory=list)
    inputs: list[bool] = field(default_factory=list)
    settings: Any = field(default_factory=lambda: SimpleNamespace(guest_id="vm"))
    partner: None = None

    def begin_step(self, now: Nanos) -> None:
        pass

    def fds(self) -> tuple[int, ...]:
        return self.world_fds

    def step(self, _: Nanos, *, is_round: bool, has_input: bool) -> Nanos | None:
        self.rounds.append(is_round)
        self.inputs.append(has_input)
        return None


@dataclass
class Host:
    endpoint: Endpoint
    driver: StubDriver
    friend: MemoryTransport

    def hear(self) -> None:
        assert self.friend.send("here", Lane.CONTROL, [b"no message of ours"])


@pytest.fixture
def host() -> Host:
    network = MemoryNetwork()
    endpoint = Endpoint(network.transport("here"), Limits(), lambda _: None)
    driver: Any = StubDriver()
    endpoint.add(driver)
    endpoint.step(Nanos(0))
    driver.rounds.clear()
    driver.inputs.clear()
    return Host(endpoint, driver, network.transport(peers=["here"]))


def test_a_step_that_finds_nothing_looks_round(host: Host) -> None:
    host.endpoint.step(Nanos(1))

    assert host.driver.rounds == [True]


def test_a_step_in_which_something_came_leaves_the_round_for_later(host: Host) -> None:
    host.hear()
    host.endpoint.step(Nanos(1))
    host.driver.news.items = [None]
    host.endpoint.step(Nanos(2))

    assert host.driver.rounds == [False, False]


def test_a_step_for_a_guest_that_goes_on_leaves_the_round_for_later(host: Host) -> None:
    host.driver.news.has_stirred = True

    host.endpoint.step(Nanos(1), [8])

    assert host.driver.rounds == [False]


def test_a_loop_that_is_always_busy_looks_round_once_in_a_while(host: Host) -> None:
    host.driver.news.items = [None]

    for ten_ms in range(1, 21):
        host.endpoint.step(Nanos(ten_ms * LOOK_NS // 10))

    assert [number for number, is_round in enumerate(host.driver.rounds, 1) if is_round] == [10, 20]


def test_a_step_for_an_input_leaves_the_round_for_later_and_one_for_another_descriptor_does_not(host: Host) -> None:
    host.driver.world_fds = (7,)
    host.endpoint.step(Nanos(1), [7])
    host.endpoint.step(Nanos(2), [8])

    assert host.driver.rounds == [False, True]


def test_a_step_that_only_time_caused_leaves_the_round_for_later(host: Host) -> None:
    for at in (1, 2, LOOK_NS, LOOK_NS + 1):
        host.endpoint.step(Nanos(at), [])

    assert host.driver.rounds == [False, False, True, False]


def test_inputs_are_asked_for_where_a_descriptor_is_readable_or_nobody_has_looked(host: Host) -> None:
    host.driver.world_fds = (7,)
    for ready in ([], [8], [8, 7], None):
        host.endpoint.step(Nanos(1), ready)

    assert host.driver.inputs == [False, False, True, True]


def test_a_world_without_descriptors_is_always_asked(host: Host) -> None:
    host.endpoint.step(Nanos(1), [])

    assert host.driver.inputs == [True]
