"""One incarnation of one simulated host: the production endpoint and driver, in a simulated world.

A host that is paused does nothing: what would have happened in it waits, and happens in order when it is woken. So a
pause or a crash comes between any two of its acts, also between the decision to release an output and its leaving.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ftvm.checkpoint import Output, Watermarks
from ftvm.errors import ClosedError, GuestEnded
from ftvm.events import Event, PeerMisbehaved, RecordLearned, RoleChanged, SessionEnded, Suspected
from ftvm.interfaces import Engine
from ftvm.protocol.core import Settings
from ftvm.protocol.view import Role, StandbyView
from ftvm.runtime.driver import Driver
from ftvm.runtime.endpoint import Endpoint
from ftvm.sim.arbiter import PLACE, ArbiterFaults, SimArbiter, SimStore
from ftvm.sim.checkers import Checkers, InvariantViolated, check_limits
from ftvm.sim.disk import SimDisk
from ftvm.sim.faultlog import FaultLog
from ftvm.sim.guest import SimGuest
from ftvm.sim.losses import Losses
from ftvm.sim.network import SimNetwork
from ftvm.sim.plan import Plan
from ftvm.sim.rng import Rng, stream
from ftvm.sim.schedule import HostClock, Schedule
from ftvm.sim.trace import Trace
from ftvm.units import Nanos

__all__ = ["SimHost", "SimWorld", "Surroundings"]

HURRIES_MAX: Final = 50
"""A step may ask for the next one at once, e.g. while it executes a long log; a host that always does so spins."""
ORIGIN_NS_MAX: Final = 10**15
SPARE_JOINS_NS: Final = (Nanos(200_000_000), Nanos(600_000_000))
"""Of three hosts, one asks to join all the time: at the pair's pace that would be most of what happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all hosts of one world share.

    releases    draws how long a release takes to leave its host
    lives       tells whether a replica of this id is there, stopped or not
    on_stopped  is told of a host that has stopped in order, or said that it has not
    """

    seed: int
    plan: Plan
    settings: Settings
    schedule: Schedule
    network: SimNetwork
    store: SimStore
    arbiter_faults: ArbiterFaults
    faults: FaultLog
    checkers: Checkers
    losses: Losses
    trace: Trace
    releases: Rng
    make_guest: Callable[[bool], SimGuest]
    lives: Callable[[str | None], bool]
    on_stopped: Callable[["SimHost"], None]


class SimWorld:
    """What one host sees of the outside: random inputs come in, releases leave after a moment, even if it stops
    before."""

    def __init__(self, release: Callable[[Output], None]) -> None:
        self.release = release
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

    def announce(self) -> None:
        """Nobody needs to be told."""

    def close(self) -> None:
        """Nothing to give back."""


class SimHost:
    """One incarnation of one host; implements port.HostPort.

    survivor  who was the standby when the guest died here, unless it broke off itself
    view      what could be seen of the replica after its last step: between two steps it changes nothing by itself
    limits    what the checkers hold it to
    """

    def __init__(
        self,
        around: Surroundings,
        address: str,
        peers: tuple[str, ...],
        incarnation: int,
        *,
        starts: bool,
        keeps: SimGuest | None = None,
    ) -> None:
        """`keeps` is the guest of the incarnation before, if anything is left of that."""
        self.address = address
        self.name = f"{address}#{incarnation}"
        self.is_dead = False
        self.survivor: str | None = None
        self.steps = 0
        self.ids: set[str] = set()
        self.limits = around.settings.limits
        self._around = around
        self._hurries = 0
        self._waits: list[Callable[[], None]] | None = None
        """What is to happen when it is woken; None while it is not paused."""
        self._pauses = 0
        self._is_step_planned = self._is_guest_planned = False
        self._booted_at = around.schedule.now
        self._step_at: int | None = None
        self._leaves_at = 0
        self._inherited = ("", 0)
        """The last epoch that it has committed, as a standby, and of whom."""
        self._rng, drift_ppm = stream(around.seed, "node", self.name), around.plan.drift_ppm
        drift_ppm = self._rng.randrange(-drift_ppm, drift_ppm + 1)
        self.clock = HostClock(around.schedule, self._rng.randrange(-ORIGIN_NS_MAX, ORIGIN_NS_MAX), drift_ppm)
        self.guest = around.make_guest(starts)
        self._has_content = keeps is not None
        if keeps is not None:
            self.guest.keep(keeps.memory[0].buffer, stream(around.seed, "kept", self.name))
        self.guest.on_saved = self._was_cut
        self.guest.on_resumed = self._plan_guest
        self.guest.fails_to_load = self._fails_to_load
        self._disk = SimDisk(
            self.guest,
            standing=self._standing,
            checker=around.checkers.flushes,
            later=self._later,
        )
        self.outside = SimWorld(self.release)
        self.transport = around.network.open(address, self.name, peers, self.wake)
        self.endpoint = Endpoint(self.transport, self.limits, self.note)
        self.driver = self._driver(peers, starts=starts)
        self.endpoint.add(self.driver)
        self.view = self.driver.view()
        self.wake()

    def _driver(self, peers: tuple[str, ...], *, starts: bool) -> Driver:
        around, settings = self._around, self._settings(peers)
        line = (around.seed, self.name)
        return Driver(
            guest=self.guest,
            world=self.outside,
            arbiter=SimArbiter(around.store, around.schedule, around.arbiter_faults, around.faults, line, self.wake),
            settings=settings,
            clock=self.clock,
            fresh_id=self._fresh_id,
            starts=starts,
            send=self.endpoint.sender_for(settings.guest_id),
            wake=self.wake,
            on_event=self.note,
            place=around.store.place,
            keepers=(self._disk,),
        )

    def _settings(self, peers: tuple[str, ...]) -> Settings:
        """Return the settings of a host that dials these peers."""
        settings = replace(self._around.settings, has_content=self._has_content)
        if len(peers) == 1:
            return replace(settings, dialled=peers)
        join_interval_ns = stream(self._around.seed, "join", self.name).choice(SPARE_JOINS_NS)
        return replace(settings, dialled=peers, timing=replace(settings.timing, join_interval_ns=join_interval_ns))

    def _fresh_id(self) -> str:
        made = f"{self._rng.getrandbits(64):016x}"
        self.ids.add(made)
        if self.is_stray:
            self._around.checkers.strays.add(made)
        return made

    @property
    def role(self) -> Role:
        """The replica's role."""
        return self.view.role

    @property
    def is_stray(self) -> bool:
        """Whether it reads the record in another place than the world's."""
        return self._around.store.place != PLACE

    @property
    def is_up(self) -> bool:
        """Whether it is neither dead nor paused."""
        return not self.is_dead and self._waits is None

    @property
    def is_protected(self) -> bool:
        """Whether this is an active whose known record names a standby."""
        return self.view.role is Role.ACTIVE and self.view.record.standby is not None

    @property
    def is_leaving(self) -> bool:
        """Whether it was asked to stop, or has to, and is not done with it."""
        return self.driver.is_leaving

    @property
    def outcome(self) -> tuple[str, bool] | None:
        """What came of a stop, and whether it was in order; None if there was none, or it is not over."""
        stopped = self.driver.stopped
        return None if stopped is None or stopped.outcome is None else (stopped.outcome, stopped.is_in_order)

    def wake(self) -> None:
        """Have the host stepped soon, once."""
        if not self._is_step_planned:
            self._is_step_planned = True
            self._around.schedule.after(self._around.plan.wake_ns, self._step)

    # --- faults and operators --------------------------------------------------------------------------------------

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
        self._around.schedule.after(length_ns, lambda: self.go_on() if number == self._pauses else None)

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
        self._around.schedule.after(self.endpoint.beat_ns // 2, lambda: self._beat(number))

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

    def kill_guest(self) -> None:
        """Have the guest fail; its host notices at its next step, which may well be a cut."""
        self.survivor = self._around.store.record.standby
        self.guest.die("the guest was killed")

    def stall_disk(self, stall_ns: int, length_ns: int) -> None:
        """Make its disk slow for a while."""
        self._disk.stall_ns = stall_ns
        self._later(length_ns, self.heal_disk)

    def heal_disk(self) -> None:
        """Make its disk fast."""
        self._disk.stall_ns = 0

    def switch_over(self, limit_ns: Nanos) -> None:
        """Ask it to hand the guest over."""
        self.driver.begin_switchover(limit_ns)
        self._was_asked()

    def set_engine(self, engine: Engine) -> None:
        """Change the engine of its guest."""
        self.driver.set_engine(engine)
        self._was_asked()

    def stop(self) -> None:
        """Ask it to stop cleanly."""
        self.driver.stop(ClosedError("an operator stops this host"))
        self._was_asked()

    def end_guest(self) -> None:
        """End the guest that runs here for good, on all hosts."""
        self._around.losses.is_guest_ended = True
        self.driver.end_guest("an operator ended the guest")
        self._was_asked()

    def _was_asked(self) -> None:
        self.view = self.driver.view()
        self._check_stop()
        self.wake()

    # --- acts ------------------------------------------------------------------------------------------------------

    def release(self, output: Output) -> None:
        """Let an output leave a little later: a stop or crash may come between the decision and the wire."""
        view, schedule = self.driver.view(), self._around.schedule
        flushes, standby = self._around.checkers.flushes, view.record.standby
        flushes.look(*self._inherited, view.id, f"let out {output.number} of another's past")
        rests_on = self.guest.rests_on(output.payload)
        flushes.lets_out(view.id, rests_on, standby, f"{view.id} lets out {output.number}")
        # A replica may be active again after a switchover; each time it releases in order.
        name = f"{view.id} since {view.active.began_at if view.active is not None else None}"
        delay_ns = int(self._around.releases.random() * self._around.plan.release_ns_max)
        self._leaves_at = max(schedule.now + delay_ns, self._leaves_at)
        schedule.after(self._leaves_at - schedule.now, lambda: self._leave(name, output))

    def _leave(self, replica: str, output: Output) -> None:
        if not self.is_dead and not self._has_to_wait(lambda: self._leave(replica, output)):
            if self._around.trace.is_on:
                self._around.trace.write(f"OUT {output.number} of {replica}")
            self._around.checkers.outputs.was_released(replica, output)

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
                raise InvariantViolated("liveness", f"{self.name} asked {HURRIES_MAX} times to be called at once")
            self._plan(max(1, deadline - now))

    def _plan(self, delay_ns: int) -> None:
        schedule = self._around.schedule
        at = schedule.now + delay_ns
        if self._step_at is not None and schedule.now < self._step_at <= at:
            return
        self._step_at = at
        schedule.after(delay_ns, self.wake)

    def _run_guest(self) -> None:
        """Run the guest, a step at a time, for as long as it runs."""
        if self.is_dead or self._has_to_wait(self._run_guest):
            return
        self.guest.advance()
        self._is_guest_planned = False
        if self.guest.is_running:
            self._plan_guest()

    def _plan_guest(self) -> None:
        """Have the guest do its next step in time with all before, if that is not planned yet."""
        schedule, step_ns = self._around.schedule, self._around.plan.guest_step_ns
        if not self._is_guest_planned:
            self._is_guest_planned = True
            schedule.after(step_ns - (schedule.now - self._booted_at) % step_ns, self._run_guest)

    def _fails_to_load(self) -> bool:
        fails = self._around.faults.strikes("load_failed", self.name)
        if fails:
            self._around.losses.failed_to_load.add(self.view.id)
        return fails

    # --- what the checkers see -------------------------------------------------------------------------------------

    def note(self, event: Event) -> None:
        """Look at what the production code tells."""
        trace = self._around.trace
        trace.told[type(event).__name__] += 1
        if isinstance(event, RoleChanged) and event.role == Role.ACTIVE.value:
            view = self.driver.view()
            self._around.checkers.actives.became_active(view.record, view.id)
        elif isinstance(event, PeerMisbehaved) or (isinstance(event, SessionEnded) and "left" in event.reason):
            self.survivor = None
        elif isinstance(event, Suspected):
            self._note_suspicion(event)
        elif isinstance(event, RecordLearned) and event.standby == self.view.id:
            self._around.losses.named_too_late.discard(event.standby)
        if trace.is_on:
            trace.write(f"{self.name} {event}")

    def _note_suspicion(self, event: Suspected) -> None:
        """Check that no live host is confirmed dead: silence may deceive, a confirmation must not."""
        view = self.driver.view()
        active, standby = view.active, view.standby
        if standby is not None:
            self._around.losses.suspecting[view.id] = self._around.schedule.now
            suspected: str | None = standby.session.active
        else:
            suspected = active.session.standby if active is not None and active.session is not None else None
        if "process is gone" in event.reason and self._around.lives(suspected):
            what = f"{self.name} takes {suspected} for dead at once, which lives: {event.reason}"
            raise InvariantViolated("suspicion", what)

    def _was_cut(self, fingerprint: bytes) -> None:
        view = self.driver.view()
        if view.active is not None:
            self._around.checkers.states.was_cut(view.id, view.active.epoch + 1, fingerprint)
            has_flush, self._disk.was_flushed = self._disk.was_flushed, False
            epoch, steps = view.active.epoch + 1, self.guest.position.retired
            self._around.checkers.flushes.was_cut(view.id, epoch, steps, has_flush=has_flush)

    def _standing(self) -> tuple[str, int]:
        view = self.driver.view()
        if view.active is not None:
            return view.id, view.active.epoch
        return view.id, self._inherited[1] if view.standby is None else view.standby.epoch or 0

    def _later(self, delay_ns: int, act: Callable[[], None]) -> None:
        """Do something in this process after a while: not while it is stopped, and not once it is dead."""

        def do_it() -> None:
            if not self.is_dead and not self._has_to_wait(do_it):
                act()

        self._around.schedule.after(delay_ns, do_it)

    def _check(self) -> None:
        before, view, checkers = self.view, self.driver.view(), self._around.checkers
        active, standby, self.view = view.active, view.standby, view
        if active is not None:
            checkers.positions.stands(view.id, view.record.generation, active.epoch)
            if active.session is not None:
                checkers.check_place(active.session.standby)
                other, acked = active.session.standby, active.session.acked
                checkers.states.was_acknowledged(other, acked)
                checkers.flushes.look(view.id, acked.epoch, other, f"acknowledged epoch {acked.epoch}")
            if before.role is Role.STANDBY and before.standby is not None:
                self._took_over(before.standby)
        elif standby is not None:
            checkers.positions.stands(view.id, view.record.generation, standby.epoch or 0)
            self._inherited = standby.session.active, standby.epoch or 0
            if before.role is Role.ACTIVE:
                self._stands_by_again(standby)
            elif before.role is Role.SYNCING and view.role is Role.STANDBY and not standby.is_following:
                memory = self.guest.memory_fingerprint()
                checkers.states.was_copied(standby.session.active, standby.epoch or 0, memory)
        check_limits(active or standby, self.limits)
        if isinstance(self.driver.failure, GuestEnded) and self._around.losses.is_guest_ended:
            self._check_end()
        elif self.driver.failure is not None and self.driver.stopped is None and self.guest.death is None:
            raise InvariantViolated("liveness", f"{self.name} failed: {self.driver.failure}")
        self._check_stop()

    def _check_end(self) -> None:
        """End with the guest, unless this is where it was ended, and there is more to do."""
        if self.driver.stopped is None and not self.is_leaving:
            self.crash()

    def _took_over(self, has: StandbyView) -> None:
        """Look at what a standby had, up to its last moment as one."""
        states = self._around.checkers.states
        states.took_over(self.view.id, Watermarks(has.epoch or 0, has.log_index))
        if has.position is not None:
            self._around.checkers.flushes.goes_on(self.view.id, has.epoch or 0, has.position.retired)
        if not has.log:  # a replay has moved the state on; then the outputs tell whether it is right
            states.runs_from(has.session.active, has.epoch or 0, self.guest.fingerprint())

    def _stands_by_again(self, has: StandbyView) -> None:
        """Look at the last epoch of who handed the guest over; the new active never cut it."""
        epoch, fingerprint, states = has.epoch or 0, self.guest.fingerprint(), self._around.checkers.states
        self._around.checkers.flushes.keeps_what_it_told(self.view.id, f"{self.view.id} was switched away")
        states.runs_from(self.view.id, epoch, fingerprint)
        states.was_cut(has.session.active, epoch, fingerprint)

    def _check_stop(self) -> None:
        if self.driver.stopped is not None and not self.is_dead:
            self._around.on_stopped(self)
