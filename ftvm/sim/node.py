"""One incarnation of one simulated host: the production endpoint and driver, with a simulated outside around them.

A node that is paused does nothing: what would have happened in it waits, and happens in order when it is woken. So a
pause or a crash comes between any two of its acts, also between the decision to release an output and its leaving.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ftvm.checkpoint import Output, Watermarks
from ftvm.events import Event, PeerMisbehaved, RecordLearned, RoleChanged, SessionEnded, Suspected
from ftvm.protocol.active import Active
from ftvm.protocol.core import Role
from ftvm.protocol.standby import Standby
from ftvm.runtime.driver import Driver
from ftvm.runtime.endpoint import Endpoint
from ftvm.sim.arbiter import SimArbiter
from ftvm.sim.chance import stream
from ftvm.sim.checkers import Violation, check_limits
from ftvm.sim.stops import was_stopped
from ftvm.sim.timeline import NodeClock

if TYPE_CHECKING:
    from ftvm.sim.world import World

__all__ = ["Node", "SimWorld"]

HURRIES_MAX = 50
"""A step may ask for the next one at once, as while it executes a long log; one that always does turns a core hot."""
ORIGIN_NS_MAX = 10**15


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
    """One incarnation of one host; `waits` is what is to happen when it is woken, None while it is not paused."""

    def __init__(self, world: "World", address: str, peer: str, incarnation: int, starts: bool) -> None:
        self.world = world
        self.address = address
        self.name = f"{address}#{incarnation}"
        self.is_dead = False
        self.survivor: str | None = None
        """Who was the standby when the guest died here, unless it broke off itself."""
        self.steps = 0
        self._hurries = 0
        self._waits: list[Callable[[], None]] | None = None
        self._pauses = 0
        self._is_step_planned = False
        self._step_at: int | None = None
        self._leaves_at = 0
        chance, plan, timeline = stream(world.seed, "node", self.name), world.plan, world.timeline
        drift_ppm = chance.randrange(-plan.drift_ppm, plan.drift_ppm + 1)
        self.clock = NodeClock(timeline, chance.randrange(-ORIGIN_NS_MAX, ORIGIN_NS_MAX), drift_ppm)
        self.guest = world.make_guest(boots=starts)
        self.guest.on_saved = self._was_cut
        self.guest.fails_to_load = self._fails_to_load
        self.outside = SimWorld(self)
        self.transport = world.network.open(address, self.name, (peer,), self.wake)
        settings = world.settings_for(peer)
        self.ids: set[str] = set()

        def fresh_id() -> str:
            made = f"{chance.getrandbits(64):016x}"
            self.ids.add(made)
            return made

        self.endpoint = Endpoint(self.transport, settings.limits, self.note)
        self.driver = Driver(
            guest=self.guest,
            world=self.outside,
            arbiter=SimArbiter(
                world.store, timeline, world.arbiter_faults, world.ledger, (world.seed, self.name), self.wake
            ),
            settings=settings,
            clock=self.clock,
            fresh_id=fresh_id,
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
    def is_up(self) -> bool:
        """Whether it is neither dead nor paused."""
        return not self.is_dead and self._waits is None

    @property
    def is_protected(self) -> bool:
        """Whether this is an active whose known record names a standby."""
        return self.role is Role.ACTIVE and self.driver.replica.core.desk.known.standby is not None

    def _fails_to_load(self) -> bool:
        fails = self.world.ledger.strikes("load_failed", self.name)
        if fails:
            self.world.failed_to_load.add(self.driver.replica.core.id)
        return fails

    def wake(self) -> None:
        """Have the node stepped soon, once."""
        if not self._is_step_planned:
            self._is_step_planned = True
            self.world.timeline.after(self.world.plan.wake_ns, self._step)

    def note(self, event: Event) -> None:
        """Look at what the production code tells."""
        self.world.told[type(event).__name__] += 1
        if isinstance(event, RoleChanged) and event.role == Role.ACTIVE.value:
            replica = self.driver.replica
            self.world.actives.became_active(replica.core.desk.known, replica.core.id)
        elif isinstance(event, PeerMisbehaved) or (isinstance(event, SessionEnded) and "left" in event.reason):
            self.survivor = None
        elif isinstance(event, Suspected):
            self._note_suspicion(event)
        elif isinstance(event, RecordLearned) and event.standby == self.driver.replica.core.id:
            self.world.named_too_late.discard(event.standby)
        if self.world.traces:
            self.world.trace(f"{self.name} {event}")

    def _note_suspicion(self, event: Suspected) -> None:
        """Check that nobody is taken for dead at once who lives; silence may deceive, a confirmation must not."""
        steps = self.driver.replica.steps
        if isinstance(steps, Standby):
            self.world.suspecting[self.driver.replica.core.id] = self.world.timeline.now
            suspected: str | None = steps.opening.session.active
        else:
            suspected = steps.session.standby if isinstance(steps, Active) and steps.session is not None else None
        if "process is gone" in event.reason and self.world.lives(suspected):
            raise Violation("suspicion", f"{self.name} takes {suspected} for dead at once, which lives: {event.reason}")

    def release(self, output: Output) -> None:
        """Let an output leave a little later: a stop or crash may come between the decision and the wire."""
        replica, timeline = self.driver.replica, self.world.timeline
        # A replica may be active again after a switchover; each time it releases in order.
        began_at = replica.steps.began_at if isinstance(replica.steps, Active) else None
        name = f"{replica.core.id} since {began_at}"
        self._leaves_at = max(timeline.now + self.world.release_delay_ns(), self._leaves_at)
        timeline.after(self._leaves_at - timeline.now, lambda: self._leave(name, output))

    # --- faults ----------------------------------------------------------------------------------------------------

    def crash(self) -> None:
        """End for good."""
        self.is_dead = True
        self.transport.close()

    def pause(self, length_ns: int) -> None:
        """Stop the process; it goes on `length_ns` later, unless it is paused again or woken before."""
        if self._waits is None:
            self._waits = []
        self.transport.is_stopped = True
        self._pauses += 1
        number = self._pauses
        self.world.timeline.after(length_ns, lambda: self.go_on() if number == self._pauses else None)

    def hang(self, length_ns: int) -> None:
        """Keep the process's loop busy for a while, unless it is stopped; its heart goes on, and answers who dials."""
        if self._waits is not None:
            return
        self.pause(length_ns)
        self.transport.is_stopped = False
        self._beat(self._pauses)

    def _beat(self, number: int) -> None:
        if self.is_dead or self._waits is None or number != self._pauses:
            return
        self.endpoint.beat(self.clock.now())
        self.world.timeline.after(self.endpoint.beat_ns // 2, lambda: self._beat(number))

    def go_on(self) -> None:
        """End a pause: what waited happens now."""
        waited, self._waits = self._waits or [], None
        self.transport.is_stopped = False
        for act in waited:
            act()

    def _has_to_wait(self, act: Callable[[], None]) -> bool:
        if self._waits is None:
            return False
        self._waits.append(act)
        return True

    # --- acts ------------------------------------------------------------------------------------------------------

    def _leave(self, replica: str, output: Output) -> None:
        if not self.is_dead and not self._has_to_wait(lambda: self._leave(replica, output)):
            self.world.was_released(replica, output)

    def _step(self) -> None:
        if self.is_dead or self._has_to_wait(self._step):
            return
        self._is_step_planned = False
        self.steps += 1
        before, now = self.driver.replica.steps, self.clock.now()
        deadline = self.endpoint.step(now)
        self._check(before)
        if deadline is not None:
            self._hurries = self._hurries + 1 if deadline <= now else 0
            if self._hurries > HURRIES_MAX:
                raise Violation("liveness", f"{self.name} asked {HURRIES_MAX} times in a row to be called at once")
            self._plan(max(1, deadline - now))

    def _plan(self, delay_ns: int) -> None:
        timeline = self.world.timeline
        at = timeline.now + delay_ns
        if self._step_at is not None and timeline.now < self._step_at <= at:
            return
        self._step_at = at
        timeline.after(delay_ns, self.wake)

    def _was_cut(self, fingerprint: bytes) -> None:
        replica = self.driver.replica
        if isinstance(replica.steps, Active):
            self.world.states.was_cut(replica.core.id, replica.steps.epoch + 1, fingerprint)

    def _check(self, before: object) -> None:
        replica, world = self.driver.replica, self.world
        steps, known = replica.steps, replica.core.desk.known
        if isinstance(steps, Active):
            world.positions.stands(replica.core.id, known.generation, steps.epoch)
            if steps.session is not None:
                world.states.was_acknowledged(steps.session.standby, steps.session.acked)
        elif isinstance(steps, Standby):
            world.positions.stands(replica.core.id, known.generation, steps.committed.epoch or 0)
        check_limits(steps, self.driver.limits)
        if isinstance(steps, Active) and isinstance(before, Standby):
            session = before.opening.session
            has = Watermarks(before.committed.epoch or 0, before.committed.log_index)
            world.states.took_over(replica.core.id, has)
            fingerprint = self.guest.fingerprint()
            if not before.committed.log:  # a replay has moved the state on; then the outputs tell whether it is right
                self.world.states.runs_from(session.active, before.committed.epoch or 0, fingerprint)
        if isinstance(steps, Standby) and isinstance(before, Active):
            # After a switchover the old active stands by with its last epoch, which the new one never cut.
            epoch, fingerprint = steps.committed.epoch or 0, self.guest.fingerprint()
            self.world.states.runs_from(self.driver.replica.core.id, epoch, fingerprint)
            self.world.states.was_cut(steps.opening.session.active, epoch, fingerprint)
        is_explained = self.driver.stopped is not None or self.guest.death is not None
        if self.driver.failure is not None and not is_explained:
            raise Violation("liveness", f"{self.name} failed: {self.driver.failure}")
        self.check_stop()

    def check_stop(self) -> None:
        """Look whether this host, asked to stop, has done so."""
        if self.driver.stopped is not None:
            was_stopped(self.world, self)

    def _run_guest(self) -> None:
        """Run the guest, a step at a time."""
        if self.is_dead or self._has_to_wait(self._run_guest):
            return
        self.guest.advance()
        self.world.timeline.after(self.world.plan.guest_step_ns, self._run_guest)
