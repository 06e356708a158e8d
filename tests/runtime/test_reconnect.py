"""A session outlives its connection: ZeroMQ over a relay that breaks every connection and loses what was on its way."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftvm.engines.names import engine_named
from ftvm.events import Committed, SessionEnded, Suspected
from ftvm.lab.relay import Relay
from ftvm.runtime.protection import Protection, Standby, protect
from ftvm.sim.guest import SimGuest
from ftvm.units import Nanos

from .live import PATIENT

WAIT_SECONDS = 60.0
BREAKS = 5


class Carrier:
    """A relay with its own thread, and a switch."""

    def __init__(self, target: int) -> None:
        self.relay = Relay(0, target)
        self._wish: list[str] = []
        self._is_over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def break_all(self) -> None:
        """Lose something that is on its way, then end all connections; new ones are carried."""
        self._wish.append("cut")
        deadline = time.monotonic() + WAIT_SECONDS
        while self._wish and time.monotonic() < deadline:
            time.sleep(0.001)
        self._wish.append("heal")

    def close(self) -> None:
        self._is_over = True
        self._thread.join(WAIT_SECONDS)
        self.relay.close()

    def _run(self) -> None:
        while not self._is_over:
            if self._wish:
                wish = self._wish.pop()
                self.relay.cut() if wish == "cut" else self.relay.heal()
            now = Nanos(time.monotonic_ns())
            self.relay.step(now)
            self.relay.wait(now)


@pytest.fixture
def carriers() -> Iterator[list[Carrier]]:
    made: list[Carrier] = []
    yield made
    for carrier in made:
        carrier.close()


def commits(host: Protection, guest: SimGuest, wanted: int) -> list[object]:
    """Have the guest write, and wait for so many commits; return all that was told meanwhile."""
    told: list[object] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while sum(isinstance(event, Committed) for event in told) < wanted:
        assert time.monotonic() < deadline, "no epoch is committed any more"
        host._node.host.call(guest.advance)
        told += host.events(0.01)
    return told


@pytest.mark.parametrize("engine", ["remus", "kemari", "lockstep", "hybrid"])
def test_a_session_survives_broken_connections(engine: str, carriers: list[Carrier], tmp_path: Path) -> None:
    guests = [SimGuest(page_count=24, pages_per_step=2, output_every=4, boots=boots) for boots in (True, False)]
    arbiter, policy = f"file://{tmp_path}", engine_named(engine, 0.01)
    with protect(
        guests[0], listen="tcp://127.0.0.1:0", arbiter=arbiter, create=True, engine=policy, timing=PATIENT
    ) as primary:
        endpoint = str(primary._node._transport.endpoint)  # type: ignore[attr-defined]
        carriers.append(Carrier(int(endpoint.rpartition(":")[2])))
        peer = f"tcp://127.0.0.1:{carriers[0].relay.port}"
        with Standby(
            guests[1], listen="tcp://127.0.0.1:0", peers=[peer], arbiter=arbiter, engine=policy, timing=PATIENT
        ) as standby:
            assert primary.wait_protected(WAIT_SECONDS)
            before = (primary.status().generation, standby.status().replica_id)
            told: list[object] = []
            for _ in range(BREAKS):
                carriers[0].break_all()
                told += commits(primary, guests[0], 3)

            after = (primary.status().generation, standby.status().replica_id)

    assert after == before
    assert not [event for event in told if isinstance(event, SessionEnded | Suspected)]
