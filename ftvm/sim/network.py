"""The simulator's transport: loses, repeats, reorders, delays and cuts, one way or both, all from one seeded stream.

A buffer is read as late as the contract allows, when its token is let go: a sender that reuses it too early corrupts
its own message here, and the digests find it.

Connections are reported, too: they end when a process does, and when a firewall resets a healthy link. A host that then
asks whether the peer still listens is refused if the peer's process is gone. One that is stopped, or without power, or
behind a cut, gives no answer.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

from ftvm.checkpoint import Buffer
from ftvm.interfaces import Delivery, Lane, Polled, Sign
from ftvm.sim.faultlog import FaultLog
from ftvm.sim.plan import Plan
from ftvm.sim.rng import stream
from ftvm.sim.schedule import Schedule

__all__ = ["LinkFaults", "SimNetwork", "SimTransport"]

LATE_FACTOR = 50
"""A late message takes so many times the usual jitter more: others overtake it."""

NOTHING = Polled((), ())

PAGE_FRAMES = 4
"""A message of so many frames carries pages, the payload in the last (encode/stream.py)."""

SEND_NS_MAX = 50_000
"""A sent buffer is read within this time, and must not change before."""


@dataclass(slots=True, kw_only=True)
class LinkFaults:
    """How bad the links are now. `cut` holds (from, to) pairs of host addresses between which nothing passes.

    false_answers  what a firewall says in place of the next who are asked
    """

    delay_ns: int
    jitter_ns: int
    cut: set[tuple[str, str]] = field(default_factory=set)
    false_answers: list[Sign] = field(default_factory=list)


class SimNetwork:
    """Knows the transports by address (who listens now) and by name (one incarnation)."""

    def __init__(self, seed: int, plan: Plan, schedule: Schedule, log: FaultLog) -> None:
        self.schedule = schedule
        self.faults = LinkFaults(delay_ns=plan.link_delay_ns, jitter_ns=plan.link_jitter_ns)
        self.sent = 0
        self._log = log
        self._delays = stream(seed, "network")
        self._damage = stream(seed, "damage")
        self._questions = stream(seed, "questions")
        self._refusing: set[str] = set()
        self._refused_since_reset: set[tuple[str, str]] = set()
        self._by_address: dict[str, SimTransport] = {}
        self._by_name: dict[str, SimTransport] = {}

    def open(self, address: str, name: str, dialled: tuple[str, ...], wake: Callable[[], None]) -> "SimTransport":
        """Return a transport that listens at `address` from now on."""
        transport = SimTransport(self, address, name, dialled, wake)
        self._by_address[address] = self._by_name[name] = transport
        self._refusing.discard(address)
        return transport

    def close(self, transport: "SimTransport") -> None:
        """Forget a transport: what is on its way to it is lost. Its process ended, or its host lost power."""
        self._by_name.pop(transport.name, None)
        if self._by_address.get(transport.address) is transport:
            del self._by_address[transport.address]
        if self._log.strikes("process_death", transport.name):
            self._refusing.add(transport.address)
            self._break(transport)

    def reset(self, false_answers: Sequence[Sign]) -> None:
        """Reset all connections, as a firewall does; the next who ask who lives are given these answers."""
        self.faults.false_answers = list(false_answers)
        for transport in self._by_address.values():
            self._break(transport)

    def _break(self, transport: "SimTransport") -> None:
        """Have all others see that their connections with `transport` ended."""
        for other in self._by_address.values():
            if other is not transport and (transport.address, other.address) not in self.faults.cut:
                for peer in (transport.address, transport.name):
                    self.schedule.after(self._answer_ns(), partial(self._end, other, peer))

    def _end(self, transport: "SimTransport", peer: str) -> None:
        self._refused_since_reset.discard((transport.name, peer))
        transport.saw(peer, Sign.RESET)

    def ask(self, asking: "SimTransport", peer: str) -> bool:
        """Have `asking` hear, after a while, whether somebody listens where `peer` was."""
        address = peer.partition("#")[0]
        self.schedule.after(self._answer_ns(), lambda: self._answer(asking, peer, address))
        return True

    def _answer(self, asking: "SimTransport", peer: str, address: str) -> None:
        if {(asking.address, address), (address, asking.address)} & self.faults.cut:
            return
        target = self._by_address.get(address)
        if self.faults.false_answers:
            sign = self.faults.false_answers.pop(0)
            if sign is Sign.REFUSED and (asking.name, peer) in self._refused_since_reset:
                sign = Sign.UNCLEAR  # two in a row are a death by agreement; a firewall gives one for each reset seen
            elif sign is Sign.REFUSED:
                self._refused_since_reset.add((asking.name, peer))
            asking.saw(peer, sign)
        elif target is not None and not target.is_stopped:
            asking.saw(peer, Sign.ANSWERED)
        elif target is None and address in self._refusing:
            asking.saw(peer, Sign.REFUSED)

    def _answer_ns(self) -> int:
        return self.faults.delay_ns + int(self._questions.random() * self.faults.jitter_ns)

    def carry(self, sender: "SimTransport", peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None) -> bool:
        """Send a message on its way, or lose it."""
        by_address = peer in self._by_address
        target = self._by_address.get(peer) or self._by_name.get(peer)
        if target is None:
            return False
        self.sent += 1
        seen_as = sender.name if by_address else sender.address
        strikes = self._log.strikes
        delays_ns = [] if strikes("loss") else [self._delay_ns()]
        if strikes("repeat"):
            delays_ns.append(self._delay_ns())

        def leave() -> None:
            taken = tuple(bytes(frame) for frame in frames)
            if strikes("corrupt"):
                taken = self._corrupted(taken)
            if token is not None:
                sender.let_go(token)
            for delay_ns in delays_ns:
                self.schedule.after(delay_ns, lambda: self._arrive(sender, target, seen_as, lane, taken))

        if token is None:
            leave()  # nobody can change these frames any more
        else:
            self.schedule.after(self._delays.randrange(SEND_NS_MAX), leave)
        return True

    def _arrive(
        self, sender: "SimTransport", target: "SimTransport", seen_as: str, lane: Lane, frames: tuple[bytes, ...]
    ) -> None:
        if (sender.address, target.address) not in self.faults.cut and target.name in self._by_name:
            target.arrived(Delivery(seen_as, None, lane, frames))

    def _delay_ns(self) -> int:
        factor = LATE_FACTOR if self._log.strikes("late") else 1
        return self.faults.delay_ns + int(self._delays.random() * self.faults.jitter_ns * factor)

    def _corrupted(self, frames: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Damage a message as the peer must notice: cut its header, lose a frame, or change one bit of its pages.

        A bit of a header is changed by nobody: ZeroMQ's connections are TCP's, and under keys authenticated.
        """
        *before, last = frames
        if not before or len(frames) != PAGE_FRAMES or not last:
            return (frames[0][: self._damage.randrange(len(frames[0]))], *frames[1:])
        if self._damage.random() < 0.2:
            return tuple(before)
        place = self._damage.randrange(len(last))
        return (*before, last[:place] + bytes([last[place] ^ 1 << self._damage.randrange(8)]) + last[place + 1 :])


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
        self._signs: list[tuple[str, Sign]] = []
        self.is_stopped = False

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        """See interfaces.Transport."""
        kept = list(frames) if token is not None else [bytes(frame) for frame in frames]
        return self._network.carry(self, peer, lane, kept, token)

    def poll(self, limit: int) -> Polled:
        """See interfaces.Transport."""
        inbox = self._inbox
        if not inbox and not self._let_go and not self._signs:
            return NOTHING
        taken = tuple(inbox.popleft() for _ in range(min(limit, len(inbox))))
        let_go, self._let_go = tuple(self._let_go), []
        signs, self._signs = tuple(self._signs), []
        return Polled(taken, let_go, signs)

    def ask(self, peer: str) -> bool:
        """See interfaces.Transport."""
        return self._network.ask(self, peer)

    def share(self, guard: AbstractContextManager[object]) -> None:
        """There is one thread."""

    def take_refusals(self) -> tuple[str, ...]:
        """Nobody is refused."""
        return ()

    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Sequence[int]:  # noqa: ARG002 - see interfaces.Transport
        """Nobody waits in virtual time."""
        return ()

    def wake(self) -> None:
        """Have the host stepped."""
        self._wake()

    def close(self) -> None:
        """See interfaces.Transport."""
        self._network.close(self)

    def arrived(self, delivery: Delivery) -> None:
        """Take a message from the network."""
        self._inbox.append(delivery)
        self._wake()

    def saw(self, peer: str, sign: Sign) -> None:
        """Take a sign from the network."""
        self._signs.append((peer, sign))
        self._wake()

    def let_go(self, token: int) -> None:
        """The buffers of `token` were read; like libzmq, wake nobody for it."""
        self._let_go.append(token)
