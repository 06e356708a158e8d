"""Two hosts that a test steps by hand: production driver and protocol; network, arbiter and clock in memory.

Nothing waits, and nothing runs by itself but a guest with its own thread: time is what the test says, the arbiter
answers at once, and a link is cut when the test cuts it. Choose the guest, and where the arbiter keeps its records:

    pair = Pair(guest=MyGuest, store=FileRecordStore(folder)).protected()
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
"""

import select
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, TypeAlias, TypeVar

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.arbiters.obstacle import obstacle_of
from ftvm.checkpoint import Output
from ftvm.config import Limits, Timing
from ftvm.encode.messages import Envelope, Message
from ftvm.encode.versions import SPOKEN, Versions
from ftvm.engines.names import engines_for
from ftvm.engines.remus import Remus
from ftvm.errors import ArbiterError, NotApplied
from ftvm.events import Event
from ftvm.interfaces import Answer, CompareAndSet, Engine, Guest, Record, RecordStore, Request
from ftvm.protocol.core import Settings
from ftvm.protocol.view import ActiveView, Role, StandbyView, View
from ftvm.runtime.driver import Driver
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.onlooker import CommitObserver
from ftvm.runtime.world import CallbackWorld
from ftvm.sim.guest import SimGuest
from ftvm.transport.memory import MemoryNetwork
from ftvm.units import Nanos

__all__ = ["GUEST_ID", "HASTY", "MS", "ManualClock", "Pair", "PromptArbiter", "SteppedHost", "let_run", "sim_guest"]

GUEST_ID: Final = "vm"
MS: Final = 1_000_000
"""In nanoseconds."""

HASTY: Final = Timing(
    heartbeat_ns=Nanos(15 * MS),
    backup_limit_ns=Nanos(60 * MS),
    primary_limit_ns=Nanos(90 * MS),
    join_interval_ns=Nanos(5 * MS),
    read_interval_ns=Nanos(5 * MS),
)
"""For tests that play many histories."""

STEPS_PER_MS: Final = 3
"""A host's step takes far less than a millisecond: a question is asked, answered and acted on within one."""

E = TypeVar("E", bound=Event)
OnOutput: TypeAlias = "Callable[[SteppedHost, Output], None] | None"


def sim_guest(boots: bool) -> SimGuest:
    """Return a small simulated guest that emits an output every four steps or so."""
    return SimGuest(page_count=24, pages_per_step=2, output_every=4, boots=boots)


def let_run(guest: Guest) -> None:
    """Let a guest run for about a millisecond: a simulated one takes a step, another has its own thread."""
    if isinstance(guest, SimGuest):
        guest.advance()
    else:
        select.select((), (), (), 0.001)


class ManualClock:
    """Shows what it was set to."""

    def __init__(self, now: int = 5_000_000 * MS) -> None:
        self.time = Nanos(now)

    def now(self) -> Nanos:
        """See Clock."""
        return self.time

    def elapse(self, milliseconds: float) -> None:
        """Let time pass."""
        self.time = Nanos(self.time + int(milliseconds * MS))


class PromptArbiter:
    """An Arbiter that answers as soon as it is polled. `requests` keeps what was asked."""

    def __init__(self, store: RecordStore, guest_id: str) -> None:
        self.requests: list[Request] = []
        self.store = store
        self._guest_id = guest_id
        self._answer: Answer | None = None

    def submit(self, request: Request) -> None:
        """See Arbiter."""
        self.requests.append(request)
        try:
            if isinstance(request, CompareAndSet):
                record, obstacle = self.store.compare_and_set(self._guest_id, request.record), None
            else:
                record, obstacle = self.store.read(self._guest_id), obstacle_of(self.store)
            self._answer = Answer(request, record, obstacle, place=self.store.place_id(self._guest_id))
        except ArbiterError as wrong:
            self._answer = Answer(request, None, str(wrong), is_unapplied=isinstance(wrong, NotApplied))

    def poll(self) -> Answer | None:
        """See Arbiter."""
        answer, self._answer = self._answer, None
        return answer


class SteppedHost:
    """One host of a Pair, with one guest; made by `Pair.boot`. `released` are the outputs that left it."""

    def __init__(
        self,
        pair: "Pair",
        name: str,
        guest: Guest,
        settings: Settings,
        *,
        starts: bool,
        on_output: OnOutput,
        observer: CommitObserver | None,
    ) -> None:
        self.name = name
        self.guest = guest
        self.clock = pair.clock
        self.released: list[Output] = []
        self.events: list[Event] = []
        self.world = CallbackWorld(self.released.append if on_output is None else partial(on_output, self))
        self.transport = pair.network.transport(name, settings.dialled)
        self.endpoint = Endpoint(self.transport, settings.limits, self.events.append)
        self.arbiter = PromptArbiter(pair.store, GUEST_ID)
        self.driver = Driver(
            guest=guest,
            world=self.world,
            arbiter=self.arbiter,
            settings=settings,
            clock=pair.clock,
            fresh_id=lambda: pair.fresh_id(name),
            starts=starts,
            send=self.endpoint.sender_for(GUEST_ID),
            wake=self.transport.wake,
            on_event=self.events.append,
            observer=observer,
        )
        self.endpoint.add(self.driver)

    @property
    def id(self) -> str:
        """The replica that this host is now."""
        return self.view.id

    @property
    def view(self) -> View:
        """What may be seen of its replica."""
        return self.driver.view()

    @property
    def role(self) -> Role:
        """What it is to the guest."""
        return self.view.role

    @property
    def active(self) -> ActiveView:
        """What may be seen of an active, which it must be."""
        active = self.view.active
        assert active is not None
        return active

    @property
    def standby(self) -> StandbyView:
        """What may be seen of a standby, which it must be."""
        standby = self.view.standby
        assert standby is not None
        return standby

    def step(self) -> None:
        """Do all that is due."""
        self.endpoint.step(self.clock.now())

    def hear(self, message: Message) -> None:
        """Take a message as if the peer in session had sent it."""
        view = self.view
        active, peer = view.active, view.peer
        session = None if active is None else active.session
        assert peer is not None
        envelope = Envelope(
            guest_id=GUEST_ID,
            sender=self.standby.session.active if session is None else session.standby,
            session=self.standby.session if session is None else session.id,
            record=view.record,
            released=0,
        )
        self.driver.receive(peer, None, envelope, message, self.clock.now())

    def told(self, kind: type[E]) -> list[E]:
        """Return the events of a kind that it told."""
        return [event for event in self.events if isinstance(event, kind)]

    def kill(self) -> None:
        """End without a word, as a host that loses power does."""
        self.transport.close()
        self.guest.close()


class Pair:
    """Hosts a, which starts the guest, and b, which joins; more can be booted. `alive` are those that were not killed.

    guest          returns a new guest; if it does not boot, its state comes from another host
    let_run        returns when a guest that was resumed has run for about a millisecond
    on_output      takes each output that leaves, and the host that it leaves, instead of that host's `released`
    store          where the arbiter keeps its records
    engines        those that differ from their defaults, by name
    ends_diverged  whether a host whose guest diverged ends
    versions       those of the wire that a host speaks, by its name, if not all that there are
    observers      who looks on as a host commits, by its name: made for its guest
    """

    def __init__(
        self,
        *,
        guest: Callable[[bool], Guest] = sim_guest,
        let_run: Callable[[Guest], None] = let_run,
        on_output: OnOutput = None,
        store: RecordStore | None = None,
        engine: Engine | None = None,
        engines: Mapping[str, Engine] | None = None,
        timing: Timing | None = None,
        limits: Limits | None = None,
        ends_diverged: bool = False,
        versions: Mapping[str, Versions] | None = None,
        observers: Mapping[str, Callable[[Guest], CommitObserver]] | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.network = MemoryNetwork()
        self.store = store or MemoryRecordStore()
        self.hosts: dict[str, SteppedHost] = {}
        self.alive: list[SteppedHost] = []
        self._make_guest, self._let_run, self._on_output = guest, let_run, on_output
        self._engine, self._engines = engine or Remus(interval=0.02), engines or {}
        self._timing = timing or Timing()
        self._limits = limits or Limits(batch_bytes=1 << 16, copy_rest_pages=4)
        self._ends_diverged = ends_diverged
        self._versions = versions or {}
        self._observers = observers or {}
        self._ids: Counter[str] = Counter()
        self.boot("a", "b", starts=True)
        self.boot("b", "a")

    @property
    def a(self) -> SteppedHost:
        """The host that started the guest, or came in its place."""
        return self.hosts["a"]

    @property
    def b(self) -> SteppedHost:
        """The host that joined it, or came in its place."""
        return self.hosts["b"]

    def boot(self, name: str, peer: str, *, starts: bool = False) -> SteppedHost:
        """Start a host that dials `peer`; one of the same name must be dead."""
        guest = self._make_guest(starts)
        settings = Settings(
            guest_id=GUEST_ID,
            geometry=guest.geometry,
            engine=self._engine,
            engines={**engines_for(guest.can, self._engine), **self._engines},
            dialled=(peer,),
            creates=True,
            timing=self._timing,
            limits=self._limits,
            ends_diverged=self._ends_diverged,
            is_observed=name in self._observers,
            versions=self._versions.get(name, SPOKEN),
            has_content=any(region.store.has_content for region in guest.memory if region.store is not None),
            keeps_disks=any(region.store is not None for region in guest.memory),
        )
        observer = self._observers[name](guest) if name in self._observers else None
        host = SteppedHost(self, name, guest, settings, starts=starts, on_output=self._on_output, observer=observer)
        self.hosts[name] = host
        self.alive.append(host)
        return host

    def fresh_id(self, name: str) -> str:
        """Return an id that no replica of this pair had: the host's name and a number."""
        self._ids[name] += 1
        return f"{name}{self._ids[name]}"

    def record(self) -> Record:
        """Return the arbiter's record."""
        return self.store.read(GUEST_ID)

    # --- living ------------------------------------------------------------------------------------------------------

    def run(self, milliseconds: int) -> None:
        """Let everybody who is alive live for a while."""
        for _ in range(milliseconds):
            self.clock.elapse(1)
            for host in (*self.alive,):
                if host.driver.is_active:
                    self._let_run(host.guest)
                for _ in range(STEPS_PER_MS):
                    host.step()

    def turns(self) -> Iterator[None]:
        """Let single steps of hosts happen, by turns, without end; time and guests move on before each round."""
        while True:
            self.clock.elapse(1)
            for host in self.alive:
                if host.driver.is_active:
                    self._let_run(host.guest)
            for host in (*self.alive,):
                host.step()
                yield

    def until(self, is_true: Callable[[], object], milliseconds: int = 20_000) -> None:
        """Let everybody live until it is true. Raises AssertionError if that takes longer."""
        for _ in range(milliseconds):
            if is_true():
                return
            self.run(1)
        raise AssertionError(f"still not so after {milliseconds} ms: {self.record()}")

    def protected(self, milliseconds: int = 100) -> "Pair":
        """Bring a to be active and b to be its standby, and let them live for a while; return this pair."""
        self.until(lambda: self.a.role is Role.ACTIVE and self.record().standby is not None)
        self.run(milliseconds)
        return self

    # --- what happens to it ------------------------------------------------------------------------------------------

    def cut_off(self, *names: str) -> None:
        """Lose what these hosts send from now on."""
        self.network.cut_off |= set(names)

    def heal(self) -> None:
        """Let messages arrive again."""
        self.network.cut_off.clear()

    def kill(self, host: SteppedHost) -> None:
        """End a host without a word."""
        self.alive.remove(host)
        host.kill()

    def close(self) -> None:
        """Give back what all hosts hold."""
        for host in self.hosts.values():
            host.kill()
