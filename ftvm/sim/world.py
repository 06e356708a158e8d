"""A seeded world around the production driver: hosts that crash, pause and restart, a bad network, a bad arbiter.

Everything from Endpoint down to the native core is what runs in production; only the clock, the transport, the
arbiter's line and the guest are simulated. Each kind of chance has a stream of its own, all derived from the seed, so
that turning one fault off leaves the others as they were.
"""

import random
from collections import Counter
from dataclasses import dataclass, replace

from ftvm.checkpoint import Output
from ftvm.config import Limits, Timing
from ftvm.engines.names import engines_for
from ftvm.engines.remus import Remus
from ftvm.events import Event, RoleChanged
from ftvm.interfaces import Capability, Engine, Record
from ftvm.protocol.active import Active
from ftvm.protocol.core import Role, Settings
from ftvm.protocol.standby import Standby
from ftvm.runtime.driver import Driver
from ftvm.runtime.endpoint import Endpoint
from ftvm.sim.arbiter import ArbiterFaults, SimArbiter, SimStore
from ftvm.sim.checkers import ActiveChecker, OutputChecker, RecordChecker, StateChecker, Violation
from ftvm.sim.guest import SimGuest
from ftvm.sim.network import LinkFaults, SimNetwork
from ftvm.sim.timeline import NodeClock, Timeline

__all__ = ["Node", "SimWorld", "World"]

MS = 1_000_000
SECOND = 1_000 * MS
GUEST_STEP_NS = 4 * MS
INPUT_NS_MAX = 30 * MS


class SimWorld:
    """What one node sees of the outside: random inputs come in, releases leave after a moment, even if it stops
    before."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._inputs: list[tuple[str, bytes]] = []

    def fds(self) -> tuple[int, ...]:
        """Nothing to wait on."""
        return ()

    def put(self, payload: bytes) -> None:
        """Bring an input."""
        self._inputs.append(("net0", payload))

    def receive(self, limit: int) -> list[tuple[str, bytes]]:
        """See interfaces.World."""
        taken, self._inputs = self._inputs[:limit], self._inputs[limit:]
        return taken

    def release(self, output: Output) -> None:
        """See interfaces.World."""
        self._node.release(output)

    def announce(self) -> None:
        """Nobody needs to be told."""

    def close(self) -> None:
        """Nothing to give back."""


class Node:
    """One incarnation of one host."""

    def __init__(self, world: "World", address: str, peer: str, incarnation: int, starts: bool) -> None:
        self.world = world
        self.address = address
        self.name = f"{address}#{incarnation}"
        self.is_dead = False
        self.paused_until = 0
        self._is_step_planned = False
        self._step_at: int | None = None
        self._leaves_at = 0
        chance = world.chance("node", self.name)
        self.clock = NodeClock(world.timeline, chance.randrange(-(10**15), 10**15), chance.randrange(-200, 200))
        self.guest = SimGuest(page_count=24, pages_per_step=2, output_every=2, boots=starts)
        self.guest.on_saved = self._was_cut
        self.outside = SimWorld(self)
        self.transport = world.network.open(address, self.name, (peer,), self.wake)
        settings = replace(world.settings, dialled=(peer,))
        self.endpoint = Endpoint(self.transport, settings.limits, self.note)
        arbiter = SimArbiter(
            world.store, world.timeline, world.arbiter_faults, world.chance("arbiter", self.name), self.wake
        )
        ids = world.chance("ids", self.name)
        self.driver = Driver(
            guest=self.guest,
            world=self.outside,
            arbiter=arbiter,
            settings=settings,
            clock=self.clock,
            fresh_id=lambda: f"{ids.getrandbits(64):016x}",
            starts=starts,
            send=self.endpoint.sender_for(settings.guest_id),
            wake=self.wake,
            on_event=self.note,
        )
        self.endpoint.add(self.driver)
        self.wake()
        self._run_guest()

    @property
    def role(self) -> Role:
        """The replica's role."""
        return self.driver.replica.role

    @property
    def is_protected(self) -> bool:
        """Whether this is an active whose known record names a standby."""
        return self.role is Role.ACTIVE and self.driver.replica.core.desk.known.standby is not None

    def wake(self) -> None:
        """Have the node stepped soon, once."""
        if not self._is_step_planned:
            self._is_step_planned = True
            self.world.timeline.after(self.world.step_delay_ns, self._step)

    def note(self, event: Event) -> None:
        """Look at what the production code tells."""
        self.world.told[type(event).__name__] += 1
        if isinstance(event, RoleChanged) and event.role == Role.ACTIVE.value:
            replica = self.driver.replica
            self.world.actives.became_active(replica.core.desk.known, replica.core.id)
        self.world.trace(f"{self.name} {event}")

    def release(self, output: Output) -> None:
        """Let an output leave a little later: a stop or crash may come between the decision and the wire."""
        replica = self.driver.replica.core.id
        at = self.world.timeline.now + self.world.chances["release"].randrange(2 * MS)
        self._leaves_at = max(at, self._leaves_at)
        self.world.timeline.after(self._leaves_at - self.world.timeline.now, lambda: self._leave(replica, output))

    def crash(self) -> None:
        """End for good."""
        self.is_dead = True
        self.transport.close()

    def _leave(self, replica: str, output: Output) -> None:
        if self.is_dead:
            return
        if self.world.timeline.now < self.paused_until:
            wait_ns = self.paused_until - self.world.timeline.now
            self.world.timeline.after(wait_ns, lambda: self._leave(replica, output))
            return
        self.world.outputs.was_released(replica, output)

    def _step(self) -> None:
        self._is_step_planned = False
        if self.is_dead:
            return
        timeline = self.world.timeline
        if timeline.now < self.paused_until:
            self._is_step_planned = True
            timeline.after(self.paused_until - timeline.now, self._step)
            return
        before = self.driver.replica.steps
        deadline = self.endpoint.step(self.clock.now())
        self._check(before)
        if deadline is not None:
            self._plan(max(1, deadline - self.clock.now()))

    def _plan(self, delay_ns: int) -> None:
        at = self.world.timeline.now + delay_ns
        if self._step_at is not None and self.world.timeline.now < self._step_at <= at:
            return
        self._step_at = at
        self.world.timeline.after(delay_ns, self.wake)

    def _was_cut(self, fingerprint: bytes) -> None:
        replica = self.driver.replica
        if isinstance(replica.steps, Active):
            self.world.states.was_cut(replica.core.id, replica.steps.epoch + 1, fingerprint)

    def _check(self, before: object) -> None:
        steps = self.driver.replica.steps
        if isinstance(steps, Active) and isinstance(before, Standby):
            session = before.opening.session
            fingerprint = self.guest.fingerprint()
            if not before.committed.log:  # a replay has moved the state on; then the outputs tell whether it is right
                self.world.states.runs_from(session.active, before.committed.epoch or 0, fingerprint)
        if self.driver.failure is not None and not self.is_dead:
            raise Violation("liveness", f"{self.name} failed: {self.driver.failure}")

    def _run_guest(self) -> None:
        """Run the guest, a step at a time."""
        if self.is_dead:
            return
        if self.world.timeline.now >= self.paused_until:
            self.guest.advance()
        self.world.timeline.after(GUEST_STEP_NS, self._run_guest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which faults a seed draws. Each class is off in about a third of the seeds."""

    loss: float
    repeat: float
    tail: float
    crashes: bool
    pauses: bool
    cuts: bool
    arbiter: bool


class World:
    """Two hosts, a client, an arbiter. `run` plays a fault phase, heals, and checks that the guest lives on."""

    def __init__(self, seed: int, *, engine: Engine | None = None, trace: bool = False) -> None:
        self.seed = seed
        self.lines: list[str] = []
        self._traces = trace
        self.told: Counter[str] = Counter()
        self.timeline = Timeline()
        self.chances = {kind: self.chance(kind) for kind in ("release", "input", "fault", "crash", "pause", "cut")}
        self.plan = self._draw()
        self.faults = LinkFaults()
        self.arbiter_faults = ArbiterFaults()
        self.network = SimNetwork(self.timeline, self.faults, self.chance("network"))
        self.step_delay_ns = 20_000
        self.actives = ActiveChecker()
        self.outputs = OutputChecker()
        self.states = StateChecker()
        self.records = RecordChecker()
        self.store = SimStore(self._on_record)
        engine = engine or Remus(interval=0.04)
        self.settings = Settings(
            guest_id="sim",
            geometry=SimGuest(page_count=24, pages_per_step=2, output_every=2, boots=False).geometry,
            engine=engine,
            engines=engines_for(frozenset(Capability), engine),
            dialled=(),
            creates=True,
            timing=Timing(),
            limits=Limits(batch_bytes=1 << 16, copy_rest_pages=4),
        )
        self.incarnations: Counter[str] = Counter()
        self.nodes = {"a": self._boot("a", "b", starts=True), "b": self._boot("b", "a", starts=False)}
        self.is_lost = False

    def chance(self, *kind: str) -> random.Random:
        """Return the stream of one kind of chance."""
        return random.Random(f"{self.seed}/{'/'.join(kind)}")

    def trace(self, line: str) -> None:
        """Keep a line of the trace, if one is wanted."""
        if self._traces:
            self.lines.append(f"{self.timeline.now / MS:12.3f} {line}")

    def run(self, *, fault_seconds: float = 6.0, calm_seconds: float = 6.0) -> None:
        """Play the whole history. Raises Violation."""
        self._bring_inputs()
        self.timeline.run_until(SECOND)
        self._be_bad()
        self._plan_faults()
        end = SECOND + int(fault_seconds * SECOND)
        self.timeline.run_until(end)
        self._heal()
        self.timeline.run_until(end + int(calm_seconds * SECOND))
        if not self.is_lost:
            self._check_alive()

    def _check_alive(self) -> None:
        actives = [node for node in self.nodes.values() if not node.is_dead and node.role is Role.ACTIVE]
        if len(actives) != 1:
            raise Violation("liveness", f"{len(actives)} actives after the world was healed")
        if not actives[0].is_protected:
            raise Violation("liveness", "the guest is not protected again after the world was healed")
        before = len(self.outputs.released)
        self.timeline.run_until(self.timeline.now + SECOND)
        if len(self.outputs.released) == before:
            raise Violation("liveness", "no output flows after the world was healed")

    # --- drawing ---------------------------------------------------------------------------------------------------

    def _draw(self) -> Plan:
        draw = self.chance("plan")

        def maybe(value: float) -> float:
            return value if draw.random() < 0.67 else 0.0

        return Plan(
            loss=maybe(draw.choice([0.001, 0.01, 0.1])),
            repeat=maybe(0.05),
            tail=maybe(0.05),
            crashes=draw.random() < 0.67,
            pauses=draw.random() < 0.67,
            cuts=draw.random() < 0.67,
            arbiter=draw.random() < 0.67,
        )

    def _be_bad(self) -> None:
        self.faults.loss = self.plan.loss
        self.faults.repeat = self.plan.repeat
        self.faults.tail = self.plan.tail
        if self.plan.arbiter:
            self.arbiter_faults.lost_request = 0.1
            self.arbiter_faults.lost_answer = 0.2
            self.arbiter_faults.delay_ns = 30 * MS

    def _heal(self) -> None:
        self.faults.loss = self.faults.repeat = self.faults.tail = 0.0
        self.faults.cut.clear()
        self.arbiter_faults.lost_request = self.arbiter_faults.lost_answer = 0.0
        self.arbiter_faults.is_down = False
        self.arbiter_faults.delay_ns = MS
        self.plan = replace(self.plan, crashes=False, pauses=False, cuts=False, arbiter=False)

    def _plan_faults(self) -> None:
        for kind, act in (("crash", self._crash_one), ("pause", self._pause_one), ("cut", self._cut_link)):
            self.timeline.after(self.chances[kind].randrange(SECOND), act)
        self.timeline.after(self.chances["fault"].randrange(SECOND), self._arbiter_down)

    # --- faults ----------------------------------------------------------------------------------------------------

    def _crash_one(self) -> None:
        """Crash a host whose partner holds the state, and start it anew a little later."""
        if not self.plan.crashes:
            return
        address = self.chances["crash"].choice(["a", "b"])
        node = self.nodes[address]
        other = self.nodes["b" if address == "a" else "a"]
        survivor = other.driver.replica.core.id
        is_survived = survivor in (self.store.record.active, self.store.record.standby) and not other.is_dead
        if is_survived and not node.is_dead:
            self.trace(f"CRASH {node.name} {node.role.value}")
            self.told["crashes"] += 1
            node.crash()
            self.timeline.after(self.chances["crash"].randrange(50 * MS, 900 * MS), lambda: self._reboot(address))
        self.timeline.after(self.chances["crash"].randrange(200 * MS, 2500 * MS), self._crash_one)

    def _reboot(self, address: str) -> None:
        self.nodes[address] = self._boot(address, "b" if address == "a" else "a", starts=False)

    def _boot(self, address: str, peer: str, *, starts: bool) -> Node:
        self.incarnations[address] += 1
        return Node(self, address, peer, self.incarnations[address], starts)

    def _pause_one(self) -> None:
        if not self.plan.pauses:
            return
        node = self.nodes[self.chances["pause"].choice(["a", "b"])]
        length_ns = self.chances["pause"].choice([20 * MS, 200 * MS, 450 * MS, 1200 * MS, 3000 * MS])
        self.trace(f"PAUSE {node.name} {length_ns / MS} ms")
        self.told["pauses"] += 1
        node.paused_until = self.timeline.now + length_ns
        self.timeline.after(self.chances["pause"].randrange(100 * MS, 3000 * MS), self._pause_one)

    def _cut_link(self) -> None:
        if not self.plan.cuts:
            return
        pairs = self.chances["cut"].choice([[("a", "b")], [("b", "a")], [("a", "b"), ("b", "a")]])
        self.trace(f"CUT {pairs}")
        self.told["cuts"] += 1
        self.faults.cut.update(pairs)
        self.timeline.after(self.chances["cut"].randrange(10 * MS, 1500 * MS), self.faults.cut.clear)
        self.timeline.after(self.chances["cut"].randrange(500 * MS, 3000 * MS), self._cut_link)

    def _arbiter_down(self) -> None:
        if not self.plan.arbiter:
            return
        self.arbiter_faults.is_down = not self.arbiter_faults.is_down
        self.timeline.after(self.chances["fault"].randrange(50 * MS, 1000 * MS), self._arbiter_down)

    # --- the outside -----------------------------------------------------------------------------------------------

    def _bring_inputs(self) -> None:
        """Send an input to every host, as a hub would; only the active takes it."""
        payload = self.chances["input"].randbytes(8)
        for node in self.nodes.values():
            if not node.is_dead and node.role is Role.ACTIVE:
                node.outside.put(payload)
                node.wake()
        self.timeline.after(self.chances["input"].randrange(INPUT_NS_MAX), self._bring_inputs)

    def _on_record(self, before: Record, after: Record) -> None:
        self.trace(f"RECORD {after}")
        self.records.changed(before, after)
