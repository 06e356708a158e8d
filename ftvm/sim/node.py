"""One incarnation of one simulated host: the production endpoint and driver, with a simulated outside around them.

A node that is paused does nothing: what would have happened in it waits, and happens in order when it is woken. So a
pause or a crash comes between any two of its acts, also between the decision to release an output and its leaving.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ftvm.checkpoint import Output, Watermarks
from ftvm.events import Event, PeerMisbehaved, RecordLearned, RoleChanged, SessionEnded, Suspected
from ftvm.protocol.view import Role, StandbyView, View
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
        self.limits = settings.limits
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
        self.view = self.driver.replica.view()
        """What could be seen of the replica after its last step: between two steps it changes nothing by itself."""
        self.wake()
        self._run_guest()

    @property
    def role(self) -> Role:
        """The replica's role."""
        return self.view.role

    @property
    def is_up(self) -> bool:
        """Whether it is neither dead nor paused."""
        return not self.is_dead and self._waits is None

    @property
    def is_protected(self) -> bool:
        """Whether this is an active whose known record names a standby."""
        view = self.view
        return view.role is Role.ACTIVE and view.record.standby is not None

    def _fails_to_load(self) -> bool:
        fails = self.world.ledger.strikes("load_failed", self.name)
        if fails:
            self.world.failed_to_load.add(self.view.id)
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
            view = self.driver.replica.view()
            self.world.actives.became_active(view.record, view.id)
        elif isinstance(event, PeerMisbehaved) or (isinstance(event, SessionEnded) and "left" in event.reason):
            self.survivor = None
        elif isinstance(event, Suspected):
            self._note_suspicion(event)
        elif isinstance(event, RecordLearned) and event.standby == self.view.id:
            self.world.named_too_late.discard(event.standby)
        if self.world.traces:
            self.world.trace(f"{self.name} {event}")

    def _note_suspicion(self, event: Suspected) -> None:
        """Check that nobody is taken for dead at once who lives; silence may deceive, a confirmation must not."""
        view = self.driver.replica.view()
        active, standby = view.active, view.standby
        if standby is not None:
            self.world.suspecting[view.id] = self.world.timeline.now
            suspected: str | None = standby.session.active
        else:
            suspected = active.session.standby if active is not None and active.session is not None else None
        if "process is gone" in event.reason and self.world.lives(suspected):
            raise Violation("suspicion", f"{self.name} takes {suspected} for dead at once, which lives: {event.reason}")

    def release(self, output: Output) -> None:
        """Let an output leave a little later: a stop or crash may come between the decision and the wire."""
        view, timeline = self.driver.replica.view(), self.world.timeline
        # A replica may be active again after a switchover; each time it releases in order.
        name = f"{view.id} since {view.active.began_at if view.active is not None else None}"
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
        now = self.clock.now()
        deadline = self.endpoint.step(now)
        self._check()
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
        view = self.driver.replica.view()
        if view.active is not None:
            self.world.states.was_cut(view.id, view.active.epoch + 1, fingerprint)

    def _check(self) -> None:
        before, view, world = self.view, self.look(), self.world
        active, standby = view.active, view.standby
        if active is not None:
            world.positions.stands(view.id, view.record.generation, active.epoch)
            if active.session is not None:
                world.states.was_acknowledged(active.session.standby, active.session.acked)
        elif standby is not None:
            world.positions.stands(view.id, view.record.generation, standby.epoch or 0)
        check_limits(active or standby, self.limits)
        if active is not None and before.role is Role.STANDBY and before.standby is not None:
            self._took_over(view, before.standby)
        if standby is not None and before.role is Role.ACTIVE:
            # After a switchover the old active stands by with its last epoch, which the new one never cut.
            epoch, fingerprint = standby.epoch or 0, self.guest.fingerprint()
            world.states.runs_from(view.id, epoch, fingerprint)
            world.states.was_cut(standby.session.active, epoch, fingerprint)
        is_explained = self.driver.stopped is not None or self.guest.death is not None
        if self.driver.failure is not None and not is_explained:
            raise Violation("liveness", f"{self.name} failed: {self.driver.failure}")
        self.check_stop()

    def _took_over(self, view: View, has: StandbyView) -> None:
        """Look at what a standby had, up to its last moment as one."""
        self.world.states.took_over(view.id, Watermarks(has.epoch or 0, has.log_index))
        if not has.log:  # a replay has moved the state on; then the outputs tell whether it is right
            self.world.states.runs_from(has.session.active, has.epoch or 0, self.guest.fingerprint())

    def look(self) -> View:
        """Look at the replica again, after something was done to it."""
        self.view = self.driver.replica.view()
        return self.view

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
