"""The simulator's transport: loses, repeats, reorders, delays and cuts, one way or both, all from one seeded stream.

A buffer is read as late as the contract allows, when its token is let go: a sender that reuses it too early corrupts
its own message here, and the digests find it.
"""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ftvm.checkpoint import Buffer
from ftvm.interfaces import Delivery, Lane, Polled
from ftvm.sim.timeline import Timeline

__all__ = ["LinkFaults", "SimNetwork", "SimTransport"]


@dataclass(slots=True, kw_only=True)
class LinkFaults:
    """How bad the links are now. `cut` holds (from, to) pairs of host addresses between which nothing passes."""

    loss: float = 0.0
    repeat: float = 0.0
    delay_ns: int = 100_000
    jitter_ns: int = 100_000
    tail: float = 0.0
    cut: set[tuple[str, str]] = field(default_factory=set)


class SimNetwork:
    """Knows the transports by address (who listens now) and by name (one incarnation)."""

    def __init__(self, timeline: Timeline, faults: LinkFaults, chance: random.Random) -> None:
        self.timeline = timeline
        self.faults = faults
        self.lost = 0
        self._chance = chance
        self._by_address: dict[str, SimTransport] = {}
        self._by_name: dict[str, SimTransport] = {}

    def open(self, address: str, name: str, dialled: tuple[str, ...], wake: Callable[[], None]) -> "SimTransport":
        """Return a transport that listens at `address` from now on."""
        transport = SimTransport(self, address, name, dialled, wake)
        self._by_address[address] = self._by_name[name] = transport
        return transport

    def close(self, transport: "SimTransport") -> None:
        """Forget a transport: what is on its way to it is lost."""
        self._by_name.pop(transport.name, None)
        if self._by_address.get(transport.address) is transport:
            del self._by_address[transport.address]

    def carry(self, sender: "SimTransport", peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None) -> bool:
        """Send on its way, or lose."""
        by_address = peer in self._by_address
        target = self._by_address.get(peer) or self._by_name.get(peer)
        if target is None:
            return False
        seen_as = sender.name if by_address else sender.address
        delay_ns = self._delay_ns()
        copies = 1 + (self._chance.random() < self.faults.repeat)
        if self._chance.random() < self.faults.loss:
            copies = 0

        def leave() -> None:
            taken = tuple(bytes(frame) for frame in frames)
            if token is not None:
                sender.let_go(token)
            for copy in range(copies):
                extra = self._delay_ns() if copy else 0
                self.timeline.after(delay_ns + extra, lambda: self._arrive(sender, target, seen_as, lane, taken))
            self.lost += copies == 0

        self.timeline.after(self._chance.randrange(50_000), leave)
        return True

    def _arrive(
        self, sender: "SimTransport", target: "SimTransport", seen_as: str, lane: Lane, frames: tuple[bytes, ...]
    ) -> None:
        if (sender.address, target.address) in self.faults.cut or target.name not in self._by_name:
            self.lost += 1
            return
        target.arrived(Delivery(seen_as, None, lane, frames))

    def _delay_ns(self) -> int:
        tail = self._chance.random() < self.faults.tail
        jitter_ns = self._chance.randrange(self.faults.jitter_ns + 1) * (50 if tail else 1)
        return self.faults.delay_ns + jitter_ns


class SimTransport:
    """One incarnation's end; implements interfaces.Transport, but for waiting, which virtual time makes needless."""

    def __init__(
        self, network: SimNetwork, address: str, name: str, dialled: tuple[str, ...], wake: Callable[[], None]
    ) -> None:
        self.address = address
        self.name = name
        self.dialled = dialled
        self._network = network
        self._wake = wake
        self._inbox: deque[Delivery] = deque()
        self._let_go: list[int] = []

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        """See interfaces.Transport."""
        kept = list(frames) if token is not None else [bytes(frame) for frame in frames]
        return self._network.carry(self, peer, lane, kept, token)

    def poll(self, limit: int) -> Polled:
        """See interfaces.Transport."""
        taken = tuple(self._inbox.popleft() for _ in range(min(limit, len(self._inbox))))
        let_go, self._let_go = tuple(self._let_go), []
        return Polled(taken, let_go)

    def take_refusals(self) -> tuple[str, ...]:
        """Nobody is refused."""
        return ()

    def wait(self, timeout_ns: int, fds: Sequence[int]) -> None:
        """Nobody waits in virtual time."""

    def wake(self) -> None:
        """Have the node stepped."""
        self._wake()

    def close(self) -> None:
        """See interfaces.Transport."""
        self._network.close(self)

    def arrived(self, delivery: Delivery) -> None:
        """Take a message from the network."""
        self._inbox.append(delivery)
        self._wake()

    def let_go(self, token: int) -> None:
        """Take note that the buffers of `token` were read."""
        self._let_go.append(token)
        self._wake()
