"""Two drivers with simulated guests over the in-process transport: production code but for guest, clock and arbiter.

Nothing waits: time is what the test says, and the arbiter answers at once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.checkpoint import Output
from ftvm.config import Limits, Timing
from ftvm.encode.versions import SPOKEN, Versions
from ftvm.engines.names import engines_for
from ftvm.engines.remus import Remus
from ftvm.events import Event
from ftvm.interfaces import Capability, Engine, RecordStore
from ftvm.protocol.active import Active
from ftvm.protocol.core import Role, Settings
from ftvm.protocol.standby import Standby
from ftvm.runtime.driver import Driver
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.world import CallbackWorld
from ftvm.sim.guest import SimGuest
from ftvm.testing.hosts import ManualClock, PromptArbiter
from ftvm.transport.memory import MemoryNetwork, MemoryTransport
from ftvm.units import Nanos

MS = 1_000_000

HASTY = Timing(
    heartbeat_ns=Nanos(15 * MS),
    backup_limit_ns=Nanos(60 * MS),
    primary_limit_ns=Nanos(90 * MS),
    join_interval_ns=Nanos(5 * MS),
    read_interval_ns=Nanos(5 * MS),
)
"""For tests that play many histories."""

E = TypeVar("E", bound=Event)


class Machine:
    """One host."""

    def __init__(
        self,
        pair: "Pair",
        name: str,
        peer: str,
        *,
        starts: bool,
        guest: SimGuest,
        limits: Limits,
        engine: Engine,
        engines: Mapping[str, Engine],
        ends_diverged: bool,
        timing: Timing,
        versions: Versions,
    ) -> None:
        self.released: list[Output] = []
        self.events: list[Event] = []
        self.guest = guest
        self.clock = pair.clock
        self.world = CallbackWorld(self.released.append)
        self.transport: MemoryTransport = pair.network.transport(name, [peer])
        self.endpoint = Endpoint(self.transport, limits, self.events.append)
        self.arbiter = PromptArbiter(pair.store, "vm")
        self._count = 0

        def fresh_id() -> str:
            self._count += 1
            return f"{name}{self._count}"

        settings = Settings(
            guest_id="vm",
            geometry=guest.geometry,
            engine=engine,
            engines=engines,
            dialled=(peer,),
            creates=True,
            timing=timing,
            ends_diverged=ends_diverged,
            limits=limits,
            versions=versions,
        )
        self.driver = Driver(
            guest=guest,
            world=self.world,
            arbiter=self.arbiter,
            settings=settings,
            clock=pair.clock,
            fresh_id=fresh_id,
            starts=starts,
            send=self.endpoint.sender_for("vm"),
            wake=self.transport.wake,
            on_event=self.events.append,
        )
        self.endpoint.add(self.driver)

    @property
    def role(self) -> Role:
        return self.driver.replica.role

    @property
    def steps(self) -> object:
        return self.driver.replica.steps

    @property
    def active(self) -> Active:
        assert isinstance(self.steps, Active)
        return self.steps

    @property
    def standby(self) -> Standby:
        assert isinstance(self.steps, Standby)
        return self.steps

    @property
    def buffers_in_use(self) -> int:
        return self.driver._capturer.buffers.in_use

    def step(self) -> None:
        self.endpoint.step(self.clock.now())

    def told(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def counts(self) -> Counter[str]:
        return Counter(type(event).__name__ for event in self.events)


class Pair:
    """Machines a (starts) and b (joins)."""

    def __init__(
        self,
        *,
        guest: Callable[[bool], SimGuest] | None = None,
        limits: Limits | None = None,
        engine: Engine | None = None,
        engines: Mapping[str, Engine] | None = None,
        store: RecordStore | None = None,
        timing: Timing | None = None,
        ends_diverged: bool = False,
        versions: Mapping[str, Versions] | None = None,
    ) -> None:
        make = guest or (lambda boots: SimGuest(page_count=24, pages_per_step=2, output_every=4, boots=boots))
        limits = limits or Limits(batch_bytes=1 << 16, copy_rest_pages=4)
        engine = engine or Remus(interval=0.02)
        self.clock = ManualClock()
        self.network = MemoryNetwork()
        self.store = store or MemoryRecordStore()
        self._limits = limits
        self._timing = timing or Timing()
        self._ends_diverged = ends_diverged
        self._versions = versions or {}
        self._engine = engine
        self._engines = {**engines_for(frozenset(Capability), engine), **(engines or {})}
        self.a = self.boot("a", "b", make(True), starts=True)
        self.b = self.boot("b", "a", make(False), starts=False)
        self.alive = [self.a, self.b]

    def boot(self, name: str, peer: str, guest: SimGuest, *, starts: bool) -> Machine:
        return Machine(
            self,
            name,
            peer,
            starts=starts,
            guest=guest,
            limits=self._limits,
            engine=self._engine,
            engines=self._engines,
            timing=self._timing,
            ends_diverged=self._ends_diverged,
            versions=self._versions.get(name, SPOKEN),
        )

    def run(self, milliseconds: int) -> None:
        """Let everybody who is alive live for a while; guests take a step each millisecond."""
        for _ in range(milliseconds):
            self.clock.elapse(1)
            for machine in self.alive:
                machine.guest.advance()
                for _ in range(3):
                    machine.step()

    def turns(self) -> Iterator[None]:
        """Let single steps of hosts happen, by turns, without end; time and guests move on before each round."""
        while True:
            self.clock.elapse(1)
            for machine in self.alive:
                machine.guest.advance()
            for machine in (*self.alive,):
                machine.step()
                yield

    def until(self, is_true: Callable[[], object], milliseconds: int = 20_000) -> None:
        for _ in range(milliseconds):
            if is_true():
                return
            self.run(1)
        raise AssertionError("it does not come about")

    def protected(self, milliseconds: int = 100) -> "Pair":
        """Bring a to be active and b to be its standby, and let them live for a while."""
        self.until(lambda: self.a.role is Role.ACTIVE and self.store.read("vm").standby is not None)
        self.run(milliseconds)
        return self

    def kill(self, machine: Machine) -> None:
        """End a machine without a word."""
        self.alive.remove(machine)
        machine.transport.close()

    def close(self) -> None:
        for machine in (self.a, self.b):
            machine.transport.close()
