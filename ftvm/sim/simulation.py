"""A seeded world around the production driver: hosts that crash, pause and restart, a bad network, a bad arbiter.

Everything from Endpoint down to the native core is what runs in production; only the clock, the transport, the
arbiter's line and the guest are simulated. Each kind of randomness has its own stream, all derived from the seed,
so that turning one fault off leaves the others as they were.

    simulation.py  one run: a fault phase, then calm, and does the guest live on?
    plan.py        what a seed draws before it begins; faults.py, operator.py: what happens to it, by port.py
    host.py        one host; network.py, arbiter.py, guest.py, schedule.py: what is around it
    checkers.py    the invariants; losses.py: what excuses a lost guest; faultlog.py: which faults there were
    stops.py       hosts that are stopped in order
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

from ftvm.config import Limits
from ftvm.engines.names import engines_for
from ftvm.interfaces import Capability, Engine, Record, Sign
from ftvm.protocol.core import Settings
from ftvm.protocol.view import Role
from ftvm.sim.arbiter import PLACE, ArbiterFaults, SimStore
from ftvm.sim.checkers import Checkers, InvariantViolated
from ftvm.sim.faultkind import FaultKind
from ftvm.sim.faultlog import FaultId, FaultLog
from ftvm.sim.faults import FAULTS, ambush
from ftvm.sim.guest import SimGuest
from ftvm.sim.host import SimHost, Surroundings
from ftvm.sim.losses import Losses
from ftvm.sim.network import SimNetwork
from ftvm.sim.operator import ACTIONS
from ftvm.sim.plan import Plan, draw
from ftvm.sim.rng import Rng, stream
from ftvm.sim.schedule import Schedule
from ftvm.sim.stops import finish
from ftvm.sim.trace import Trace

__all__ = ["Simulation"]

MS: Final = 1_000_000
SECOND: Final = 1_000 * MS

START_NS_MAX: Final = SECOND
FAULTS_NS: Final = 2_500 * MS
CALM_NS_MAX: Final = 12 * SECOND
"""How long after the world was healed the guest must run, protected, with its outputs flowing; mostly it takes a tenth
of that. A standby that stops may wait 8 s for its active to let it go before it starts again."""

LOOK_NS: Final = 50 * MS


class Simulation:
    """Two hosts or three, a client, an arbiter. `run` plays a fault phase, heals, and checks that the guest lives on.

    It is what faults and operators see of the world: port.WorldPort.
    """

    def __init__(
        self,
        seed: int,
        *,
        engine: Engine | None = None,
        plan: Plan | None = None,
        only: Collection[FaultId] | None = None,
        traces: bool = False,
    ) -> None:
        """The plan, or the engine alone, is drawn if none is given. `only` names the faults to let in, None: all."""
        self.seed = seed
        self.plan = plan or draw(seed, engine)
        self.halts_alone = self.plan.halts_alone
        self.schedule = Schedule()
        self.trace_log = Trace(self.schedule, is_on=traces)
        self.faults = FaultLog(seed, only)
        self.network = SimNetwork(seed, self.plan, self.schedule, self.faults)
        self.links = self.network.faults
        self.arbiter_faults = ArbiterFaults()
        self.is_calm = True
        self.checkers = Checkers()
        self.losses = Losses()
        self.store = SimStore(self._on_record, PLACE)
        self.is_ended = False
        self._is_finishing = False
        self._inputs = stream(seed, "input")
        self._incarnations: Counter[str] = Counter()
        self._steps_of_dead = 0
        self._around = self._surroundings()
        self.hosts: dict[str, SimHost] = {}
        for address in self.plan.addresses:
            self.hosts[address] = self._boot(address, starts=address == self.plan.addresses[0])

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            seed=self.seed,
            plan=self.plan,
            settings=self._settings(),
            schedule=self.schedule,
            network=self.network,
            store=self.store,
            arbiter_faults=self.arbiter_faults,
            faults=self.faults,
            checkers=self.checkers,
            losses=self.losses,
            trace=self.trace_log,
            releases=stream(self.seed, "release"),
            make_guest=self.make_guest,
            lives=self._lives,
            on_stopped=self._has_stopped,
        )

    def _settings(self) -> Settings:
        return Settings(
            guest_id="sim",
            geometry=self.make_guest(False).geometry,
            engine=self.plan.engine,
            engines=engines_for(frozenset(Capability), self.plan.engine),
            dialled=(),
            creates=True,
            timing=self.plan.timing,
            limits=Limits(batch_bytes=1 << 16, copy_rest_pages=4, digests_per_message=3),
            halts_alone=self.plan.halts_alone,
            is_observed=self.plan.records,
            keeps_disks=True,
            versions=self.plan.versions,
        )

    def make_guest(self, boots: bool) -> SimGuest:
        """Return a guest as this seed has it."""
        plan = self.plan
        return SimGuest(
            page_count=plan.page_count,
            pages_per_step=plan.pages_per_step,
            output_every=plan.output_every,
            boots=boots,
            stops_exactly=plan.stops_exactly,
        )

    # --- one run ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Play the whole run. Raises InvariantViolated."""
        self.start()
        self.make_bad()
        self.play(FAULTS_NS)
        self.heal()
        self.check_alive()
        if not (self.is_lost or self.is_ended):
            self._is_finishing = True
            finish(self)

    def start(self) -> None:
        """Bring the hosts up, until the guest is protected."""
        self.bring_inputs()
        end = self.schedule.now + START_NS_MAX
        while self.schedule.now < end and not self.is_protected():
            self.play(LOOK_NS)

    def make_bad(self) -> None:
        """Begin the fault phase."""
        self.is_calm = False
        self.faults.rates = self.plan.rates
        for kind in (*FAULTS, *ACTIONS):
            if kind.kind in self.plan.fault_kinds:
                self._befall(kind, stream(self.seed, kind.kind), is_first=True)

    def heal(self) -> None:
        """End the fault phase: every link and process works from now on."""
        self.trace("HEAL")
        self.is_calm = True
        self.faults.rates = {}
        self.links.cut.clear()
        self.links.false_answers.clear()
        self.arbiter_faults.is_down = False
        self.arbiter_faults.disk_ns = 0
        for host in self.hosts.values():
            host.go_on()
            host.heal_disk()
        for host in [host for host in self.hosts.values() if host.is_stray]:
            self._set_right(host)

    def check_alive(self) -> None:
        """Raise InvariantViolated unless the guest runs, protected, and its outputs flow, within a bounded time."""
        end = self.schedule.now + CALM_NS_MAX
        outputs = self.checkers.outputs
        released = len(outputs.released)
        is_protected = False
        while self.schedule.now < end and not (self.is_lost or self.is_ended):
            self.play(LOOK_NS)
            if not is_protected:
                is_protected, released = self.is_protected(), len(outputs.released)
            elif len(outputs.released) > released:
                return
        if self.is_lost or self.is_ended:
            return
        what = "no output flows" if is_protected else "the guest is not protected again"
        active = [host.name for host in self._actives()]
        raise InvariantViolated(
            "liveness", f"{what} in {CALM_NS_MAX // SECOND} s after the world was healed; active: {active}"
        )

    def play(self, length_ns: int) -> None:
        """Let time go on."""
        self.schedule.run_until(self.schedule.now + length_ns)

    def _actives(self) -> list[SimHost]:
        return [host for host in self.hosts.values() if not host.is_dead and host.role is Role.ACTIVE]

    def is_protected(self) -> bool:
        """Whether there is one active, and it has a standby by what it knows."""
        actives = self._actives()
        return len(actives) == 1 and actives[0].is_protected

    @property
    def steps(self) -> int:
        """How many steps all hosts together have done."""
        return self._steps_of_dead + sum(host.steps for host in self.hosts.values())

    @property
    def is_lost(self) -> bool:
        """Whether the guest is gone by two failures at once."""
        alive = {host.view.id for host in self.hosts.values() if not host.is_dead}
        return self.losses.is_lost(self.store.record, alive)

    # --- what faults and operators see and do (port.py) ------------------------------------------------------------

    @property
    def record(self) -> Record:
        """The arbiter's record."""
        return self.store.record

    def trace(self, line: str) -> None:
        """Keep a line of the trace, if one is wanted."""
        self.trace_log.write(line)

    def after(self, delay_ns: int, act: Callable[[], None]) -> None:
        """Do something later."""
        self.schedule.after(delay_ns, act)

    def active(self) -> SimHost | None:
        """Return the host where the guest runs by the arbiter's word, if it is up."""
        named = self.store.record.active
        for host in self.hosts.values():
            if host.is_up and host.role is Role.ACTIVE and host.view.id == named:
                return host
        return None

    def can_spare(self, address: str) -> bool:
        """Whether the guest would live on if this host, which is alive, died now."""
        host, members = self.hosts[address], {self.record.active, self.record.standby}
        return not host.is_dead and any(
            other.view.id in members and other.guest.death is None and not (other.is_dead or other.is_leaving)
            for other in self.hosts.values()
            if other is not host
        )

    def kill(self, address: str, back_after_ns: int) -> None:
        """End a host, and start it again so long after."""
        self.crash(address)
        self.after(back_after_ns, lambda: self.reboot(address))

    def crash(self, address: str) -> None:
        """End a host."""
        view = self.hosts[address].view
        if view.proposal is not None and view.proposal.standby is None:
            self.losses.died_dropping.add(view.id)
        self.hosts[address].crash()

    def reboot(self, address: str) -> None:
        """Start a dead host again, with nothing but what is left of the guest, where hosts keep that."""
        before = self.hosts[address]
        self._steps_of_dead += before.steps
        self.hosts[address] = self._boot(address, starts=False, keeps=before.guest if self.plan.keeps else None)

    def mislead(self, address: str, place: str, back_after_ns: int) -> None:
        """Start a host again with an arbiter of another place; after a while again with the right one."""
        self.hosts[address].crash()
        store = SimStore(lambda _before, _after: None, place)
        self._steps_of_dead += self.hosts[address].steps
        stray = self.hosts[address] = self._boot(address, starts=False, store=store)
        self.after(back_after_ns, lambda: self._set_right(stray))

    def _set_right(self, stray: SimHost) -> None:
        if self.hosts[stray.address] is stray and not stray.is_dead:
            stray.crash()
            self.reboot(stray.address)

    def cut(self, pairs: Sequence[tuple[str, str]], length_ns: int) -> None:
        """Let nothing pass, from the first to the second of each pair; after a while every link is whole again."""
        self.links.cut.update(pairs)
        self.after(length_ns, self.links.cut.clear)

    def reset(self, false_answers: Sequence[Sign]) -> None:
        """Reset all connections, as a firewall does; the next who ask who lives are given these answers."""
        self.network.reset(false_answers)

    def take_arbiter_down(self, length_ns: int) -> None:
        """Make the arbiter unreachable for a while."""
        self._spoil("is_down", True, "ARBITER down", "ARBITER up", length_ns)

    def slow_disk(self, disk_ns: int, length_ns: int) -> None:
        """Make each write of the arbiter take this long for a while."""
        self._spoil("disk_ns", disk_ns, "DISK slow", "DISK fast", length_ns)

    def _spoil(self, what: str, value: int, line: str, last_line: str, length_ns: int) -> None:
        def recover() -> None:
            self.trace(last_line)
            setattr(self.arbiter_faults, what, type(value)())

        self.trace(line)
        setattr(self.arbiter_faults, what, value)
        self.after(length_ns, recover)

    # --- what happens ----------------------------------------------------------------------------------------------

    def _boot(
        self, address: str, *, starts: bool, store: SimStore | None = None, keeps: SimGuest | None = None
    ) -> SimHost:
        self._incarnations[address] += 1
        peers = tuple(peer for peer in self.plan.addresses if peer != address)
        around = self._around if store is None else replace(self._around, store=store)
        return SimHost(around, address, peers, self._incarnations[address], starts=starts, keeps=keeps)

    def _befall(self, kind: FaultKind, rng: Rng, *, is_first: bool = False) -> None:
        """Plan the next of a kind, and after that the one after it."""
        least, most = kind.gap_ms
        delay_ns = rng.randrange((0 if is_first else least) * MS, most * MS)
        details = rng.getrandbits(64)  # drawn even if it does not come: those after it stay as they are

        def come() -> None:
            if self.is_calm:
                return
            if kind.is_possible(self) and self.faults.admits(kind.kind):
                kind.act(self, Rng(details))
            self._befall(kind, rng)

        self.after(delay_ns, come)

    def bring_inputs(self) -> None:
        """Send an input to every host, as a hub would; only the active takes it."""
        payload = self._inputs.randbytes(8)
        for host in self._actives():
            host.outside.put(payload)
            host.wake()
        self.after(self._inputs.randrange(self.plan.input_ns_max), self.bring_inputs)

    def _lives(self, replica: str | None) -> bool:
        return any(not host.is_dead and host.view.id == replica for host in self.hosts.values())

    def _has_stopped(self, host: SimHost) -> None:
        """Look at what a host leaves behind that has stopped, and start it again later."""
        outcome, is_in_order = host.outcome or ("", False)
        self.trace(f"STOPPED {host.name} {outcome}")
        if is_in_order and self.record.active in host.ids:
            raise InvariantViolated("stop", f"{host.name} has stopped in order, but {self.record} names it active")
        if not is_in_order:
            self.losses.stopped_badly |= host.ids
        host.crash()
        if not (self._is_finishing or self.is_ended):
            delay_ns = stream(self.seed, "stopped", host.name).randrange(20 * MS, 600 * MS)
            self.after(delay_ns, lambda: self.reboot(host.address))

    def _on_record(self, before: Record, after: Record) -> None:
        self.trace(f"RECORD {after}")
        self.checkers.records.changed(before, after)
        if after.active is None:
            self._was_vacated(before)
        if before.standby is not None and after.standby is None and after.active != before.standby:
            self._was_dropped(before.standby, before.active)
        if after.standby is not None and after.standby != before.standby:
            self.losses.was_named(after.standby, self.schedule.now)
        if self.faults.strikes("ambush"):
            ambush(self, stream(self.seed, "ambush", str(after.generation)))

    def _was_dropped(self, standby: str, active: str | None) -> None:
        """Check that nobody is dropped who alone could go on."""
        for host in self.hosts.values():
            if active in host.ids and host.survivor == standby and self._lives(standby):
                what = f"the guest of {host.name} had failed, and its standby {standby} was dropped"
                raise InvariantViolated("stop", what)

    def _was_vacated(self, before: Record) -> None:
        """Note that the guest has ended, by the word of a host that stops."""
        self.is_ended = self.is_calm = True
        (host,) = (host for host in self.hosts.values() if before.active in host.ids)
        if not host.is_leaving:
            raise InvariantViolated("stop", f"{host.name} has vacated the record, and nobody had asked it to stop")
        if self.record.is_ended is not self.losses.is_guest_ended:
            raise InvariantViolated("stop", f"{host.name}: was the guest to end for good? {self.record}")
