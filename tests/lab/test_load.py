import random
from dataclasses import replace
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ConfigError
from ftvm.lab.kv import Operation, Reply, Request
from ftvm.lab.linearizability import Trouble, check
from ftvm.lab.load import Workload
from ftvm.units import Nanos

MS = 1_000_000
START = Nanos(5_000 * MS)


class Guest(Protocol):
    asked: list[Request]
    values: dict[bytes, bytes]

    def answer(self, payload: bytes) -> bytes: ...


class GuestMaker(Protocol):
    def __call__(self) -> Guest: ...


class Network:
    """Carries requests and replies in virtual time, and may lose, repeat or delay each of them."""

    def __init__(self, load: Workload, guest: Guest, *, seed: int = 0, trouble: float = 0.0) -> None:
        self.load = load
        self.guest = guest
        self.now = START
        self._random = random.Random(seed)
        self._trouble = trouble
        self._going: list[tuple[int, bytes]] = []
        self._coming: list[tuple[int, bytes]] = []

    def run(self, steps: int) -> None:
        """Let so many milliseconds pass, or until the load is finished."""
        for _ in range(steps):
            if self.load.is_finished:
                return
            self.now = Nanos(self.now + MS)
            self._going += self._carry(self.load.due(self.now))
            self._coming += self._carry([self.guest.answer(request) for request in self._arrived(self._going)])
            for reply in self._arrived(self._coming):
                self.load.on_reply(reply, self.now)

    def _carry(self, datagrams: list[bytes]) -> list[tuple[int, bytes]]:
        return [(self.now + self._delay(), datagram) for datagram in datagrams for _ in range(self._copies())]

    def _arrived(self, travelling: list[tuple[int, bytes]]) -> list[bytes]:
        arrived = [datagram for at, datagram in travelling if at <= self.now]
        travelling[:] = [(at, datagram) for at, datagram in travelling if at > self.now]
        return arrived

    def _copies(self) -> int:
        return self._random.choice((0, 1, 2)) if self._random.random() < self._trouble else 1

    def _delay(self) -> int:
        return self._random.randrange(150 * MS) if self._random.random() < self._trouble else 0


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), trouble=st.sampled_from([0.0, 0.2, 0.5]))
def test_correct_guest_is_found_in_order_on_any_network(make_guest: GuestMaker, seed: int, trouble: float) -> None:
    load = Workload(START, seed=seed, clients=4, keys=8, pace_ns=MS)
    network = Network(load, make_guest(), seed=seed, trouble=trouble)

    network.run(400)
    load.begin_audit()
    network.run(60_000)

    assert load.is_finished
    assert check(load.history()).findings == ()


def test_each_client_counts_by_one_and_has_one_request_outstanding(guest: Guest) -> None:
    load = Workload(START, seed=1, clients=3)

    Network(load, guest).run(50)

    numbers: dict[int, list[int]] = {}
    for request in guest.asked:
        numbers.setdefault(request.client, []).append(request.number)
    assert len(numbers) == 3
    assert all(asked == list(range(1, len(asked) + 1)) for asked in numbers.values())


def test_request_without_an_answer_is_repeated_with_growing_but_bounded_patience() -> None:
    load = Workload(START, seed=1, clients=1)
    sent_at = []

    for ms in range(1_000):
        sent_at += [ms for _ in load.due(Nanos(START + ms * MS))]

    assert sent_at == [0, 50, *range(150, 1_000, 100)]
    assert load.counters.retransmissions == 10


def test_client_begins_no_more_than_one_request_in_its_pace(guest: Guest) -> None:
    load = Workload(START, seed=1, clients=1, pace_ns=10 * MS)

    Network(load, guest).run(100)

    assert [call.invoked_at - START for call in load.history()] == [ms * MS for ms in range(1, 101, 10)]


def test_repeated_request_is_the_same_bytes() -> None:
    load = Workload(START, seed=1, clients=1)

    first = load.due(START)
    again = load.due(Nanos(START + 50 * MS))

    assert first == again


def test_audit_reads_every_key_once(guest: Guest) -> None:
    load = Workload(START, seed=2, clients=4, keys=10, pace_ns=MS)
    network = Network(load, guest)
    network.run(20)
    worked = len(guest.asked)

    load.begin_audit()
    load.begin_audit()
    network.run(100)

    audit = guest.asked[worked + 4 :]  # each client had one request of the working phase outstanding
    assert load.is_finished
    assert all(request.operation is Operation.GET for request in audit)
    assert len({request.key for request in audit}) == len(audit) == 10


def test_put_that_the_guest_forgets_is_found_by_the_audit(guest: Guest) -> None:
    load = Workload(START, seed=3, clients=4, keys=4, pace_ns=MS)
    network = Network(load, guest)
    network.run(50)

    guest.values.clear()
    load.begin_audit()
    network.run(100)

    assert check(load.history()).acknowledged_lost > 0


def test_answers_that_come_again_are_no_new_answers(guest: Guest) -> None:
    load = Workload(START, seed=1, clients=1)
    reply = guest.answer(load.due(START)[0])

    is_first = [load.on_reply(reply, START) for _ in range(3)]

    assert is_first == [True, False, False]
    assert (load.counters.acknowledged, load.counters.repeats) == (1, 2)


def test_answer_that_comes_again_changed_is_found(guest: Guest) -> None:
    load = Workload(START, seed=1, clients=1)
    reply = Reply.decode(guest.answer(load.due(START)[0]))

    load.on_reply(reply.encode(), START)
    load.on_reply(replace(reply, uptime=reply.uptime + 1).encode(), START)

    assert [finding.trouble for finding in check(load.history()).findings] == [Trouble.ANSWERS_DIFFER]


def test_what_was_never_asked_is_refused(guest: Guest) -> None:
    load = Workload(START, seed=1, clients=1)
    reply = Reply.decode(guest.answer(load.due(START)[0]))

    for payload in (b"", replace(reply, client=7).encode(), replace(reply, number=9).encode()):
        assert not load.on_reply(payload, START)

    assert load.counters.refused == 3
    assert load.counters.acknowledged == 0


def test_one_seed_asks_the_same_again(make_guest: GuestMaker) -> None:
    asked = []
    for _ in range(2):
        guest = make_guest()
        Network(Workload(START, seed=9), guest).run(30)
        asked.append(guest.asked)

    assert asked[0] == asked[1]


@pytest.mark.parametrize("clients", [0, 129])
def test_number_of_clients_is_bounded(clients: int) -> None:
    with pytest.raises(ConfigError, match="1 to 128 clients"):
        Workload(START, seed=1, clients=clients)
