"""Hosts that a test steps by hand: production driver and protocol, over transports, an arbiter and a clock in memory.

Nothing waits and nothing runs by itself but a guest with a thread of its own: time is what the test says, the arbiter
answers at once, and a link is cut when the test cuts it.
"""

from collections.abc import Callable, Sequence

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.checkpoint import Buffer, Output
from ftvm.config import Limits, Timing
from ftvm.engines.names import engines_for
from ftvm.errors import ArbiterError, NotApplied
from ftvm.events import Event
from ftvm.interfaces import Answer, CompareAndSet, Engine, Guest, Lane, Polled, RecordStore, Request
from ftvm.protocol.core import Settings
from ftvm.runtime.driver import Driver
from ftvm.runtime.endpoint import Endpoint
from ftvm.runtime.world import CallbackWorld
from ftvm.transport.memory import MemoryNetwork, MemoryTransport
from ftvm.units import Nanos

__all__ = ["Cut", "Host", "ManualClock", "PromptArbiter", "Setting"]

GUEST_ID = "vm"
_MS = 1_000_000


class ManualClock:
    """Shows what it was set to."""

    def __init__(self, now: int = 5_000_000 * _MS) -> None:
        self.time = Nanos(now)

    def now(self) -> Nanos:
        """See Clock."""
        return self.time

    def elapse(self, milliseconds: float) -> None:
        """Let time pass."""
        self.time = Nanos(self.time + int(milliseconds * _MS))


class PromptArbiter:
    """An Arbiter that answers as soon as it is polled. `requests` keeps what was asked."""

    def __init__(self, store: RecordStore, guest_id: str) -> None:
        self.requests: list[Request] = []
        self._store = store
        self._guest_id = guest_id
        self._answer: Answer | None = None

    def submit(self, request: Request) -> None:
        """See Arbiter."""
        self.requests.append(request)
        try:
            if isinstance(request, CompareAndSet):
                record = self._store.compare_and_set(self._guest_id, request.record)
            else:
                record = self._store.read(self._guest_id)
            self._answer = Answer(request, record, None)
        except ArbiterError as wrong:
            self._answer = Answer(request, None, str(wrong), is_unapplied=isinstance(wrong, NotApplied))

    def poll(self) -> Answer | None:
        """See Arbiter."""
        answer, self._answer = self._answer, None
        return answer


Cut = set[str]
"""Names of hosts from which nothing gets out at present."""


class _CuttableTransport:
    """A memory transport whose messages are lost while its host is in `cut`."""

    def __init__(self, inner: MemoryTransport, name: str, cut: Cut) -> None:
        self._inner = inner
        self._name = name
        self._cut = cut
        self._lost: list[int] = []
        self.dialled = inner.dialled
        self.ask, self.share = inner.ask, inner.share
        self.take_refusals, self.wait, self.wake, self.close = inner.take_refusals, inner.wait, inner.wake, inner.close

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        """See Transport; a message that is lost was taken all the same."""
        if self._name not in self._cut:
            return self._inner.send(peer, lane, frames, token)
        if token is not None:
            self._lost.append(token)
        return True

    def poll(self, limit: int) -> Polled:
        """See Transport."""
        polled, lost = self._inner.poll(limit), tuple(self._lost)
        self._lost.clear()
        return Polled(polled.deliveries, (*polled.let_go, *lost))


class Setting:
    """What the hosts of one test share: time, the arbiter's record, the network and which links are cut."""

    def __init__(self, engine: Engine, timing: Timing, limits: Limits) -> None:
        self.engine = engine
        self.timing = timing
        self.limits = limits
        self.clock = ManualClock()
        self.store = MemoryRecordStore()
        self.network = MemoryNetwork()
        self.cut: Cut = set()
        self.ids = 0

    def fresh_id(self) -> str:
        """Return an id that nobody had."""
        self.ids += 1
        return f"replica{self.ids}"


class Host:
    """One host with one guest. `on_output` is told each output that leaves, and of which stint of which replica."""

    def __init__(
        self,
        setting: Setting,
        name: str,
        peer: str,
        guest: Guest,
        *,
        starts: bool,
        on_output: Callable[[str, Output], None],
    ) -> None:
        self.name = name
        self.guest = guest
        self.events: list[Event] = []
        self.world = CallbackWorld(lambda output: on_output(self._stint(), output))
        self._clock = setting.clock
        self._transport = _CuttableTransport(setting.network.transport(name, [peer]), name, setting.cut)
        self._endpoint = Endpoint(self._transport, setting.limits, self.events.append)
        self.driver = Driver(
            guest=guest,
            world=self.world,
            arbiter=PromptArbiter(setting.store, GUEST_ID),
            settings=Settings(
                guest_id=GUEST_ID,
                geometry=guest.geometry,
                engine=setting.engine,
                engines=engines_for(guest.can, setting.engine),
                dialled=(peer,),
                creates=True,
                timing=setting.timing,
                limits=setting.limits,
            ),
            clock=setting.clock,
            fresh_id=setting.fresh_id,
            starts=starts,
            send=self._endpoint.sender_for(GUEST_ID),
            wake=self._transport.wake,
            on_event=self.events.append,
        )
        self._endpoint.add(self.driver)

    @property
    def id(self) -> str:
        """The replica that this host is now."""
        return self.driver.replica.core.id

    def _stint(self) -> str:
        """Name the replica and the record it goes by: it may be active, stand by, and be active again."""
        return f"{self.id} in generation {self.driver.replica.core.desk.known.generation}"

    def step(self) -> None:
        """Do all that is due."""
        self._endpoint.step(self._clock.now())

    def kill(self) -> None:
        """End without a word, as a host that loses power does."""
        self._transport.close()
        self.guest.close()
