"""A seeded world around the production driver: hosts that crash, pause and restart, a bad network, a bad arbiter.

Everything from Endpoint down to the native core is what runs in production; only the clock, the transport, the
arbiter's line and the guest are simulated. Each kind of chance has a stream of its own, all derived from the seed, so
that turning one fault off leaves the others as they were.

    world.py     the history: a fault phase, then calm, and does the guest live on?
    plan.py      what a seed draws before it begins; faults.py, operator.py: what befalls it, happening.py
    node.py      one host; network.py, arbiter.py, guest.py, timeline.py: what is around it
    checkers.py  the invariants; ledger.py: which faults there were; stops.py: hosts that are stopped in order
"""

import random
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Final

from ftvm.checkpoint import Output
from ftvm.config import Limits
from ftvm.engines.names import engines_for
from ftvm.interfaces import Capability, Engine, Record
from ftvm.protocol.core import Settings
from ftvm.protocol.view import Role
from ftvm.sim.arbiter import ArbiterFaults, SimStore
from ftvm.sim.chance import stream
from ftvm.sim.checkers import ActiveChecker, OutputChecker, PositionChecker, RecordChecker, StateChecker, Violation
from ftvm.sim.faults import FAULTS, ambush
from ftvm.sim.guest import SimGuest
from ftvm.sim.happening import Happening
from ftvm.sim.ledger import Fault, Ledger
from ftvm.sim.network import SimNetwork
from ftvm.sim.node import Node
from ftvm.sim.operator import ACTIONS
from ftvm.sim.plan import draw
from ftvm.sim.stops import finish
from ftvm.sim.timeline import Timeline

__all__ = ["World"]

MS: Final = 1_000_000
SECOND: Final = 1_000 * MS

START_NS_MAX: Final = SECOND
FAULTS_NS: Final = 2_500 * MS
CALM_NS_MAX: Final = 8 * SECOND
"""So long after the world was healed the guest must run, protected, and its outputs flow; mostly it takes a tenth."""

LOOK_NS: Final = 50 * MS

PATIENCE_NS: Final = 4_500 * MS
"""So long at least, by anybody's clock, a whole standby waits for the record to name it."""


class World:
    """Two hosts, a client, an arbiter. `run` plays a fault phase, heals, and checks that the guest lives on."""

    def __init__(
        self, seed: int, *, engine: Engine | None = None, only: Collection[Fault] | None = None, traces: bool = False
    ) -> None:
        """`engine` is drawn if none is given; `only` names the faults that are let in, None: all that are drawn."""
        self.seed = seed
        self.plan = draw(seed, engine)
        self.traces = traces
        self.lines: list[str] = []
        self.told: Counter[str] = Counter()
        self.ledger = Ledger(seed, only)
        self.timeline = Timeline()
        self.network = SimNetwork(seed, self.plan, self.timeline, self.ledger)
        self.links = self.network.faults
        self.arbiter_faults = ArbiterFaults()
        self.is_calm = True
        self.actives = ActiveChecker()
        self.outputs = OutputChecker()
        self.states = StateChecker()
        self.positions = PositionChecker()
        self.records = RecordChecker()
        self.store = SimStore(self._on_record)
        self._inputs = stream(seed, "input")
        self._releases = stream(seed, "release")
        self._settings = Settings(
            guest_id="sim",
            geometry=self.make_guest(boots=False).geometry,
            engine=self.plan.engine,
            engines=engines_for(frozenset(Capability), self.plan.engine),
            dialled=(),
            creates=True,
            timing=self.plan.timing,
            limits=Limits(batch_bytes=1 << 16, copy_rest_pages=4),
            halts_alone=self.plan.halts_alone,
        )
        self.incarnations: Counter[str] = Counter()
        self._steps_of_dead = 0
        self.died_dropping: set[str] = set()
        self.failed_to_load: set[str] = set()
        self.suspecting: dict[str, int] = {}
        self.named_too_late: set[str] = set()
        self.stopped_badly: set[str] = set()
        self.is_ended = False
        self.is_finishing = False
        self.nodes = {"a": self._boot("a", "b", starts=True), "b": self._boot("b", "a", starts=False)}

    def run(self) -> None:
        """Play the whole history. Raises Violation."""
        self.start()
        self.make_bad()
        self.play(FAULTS_NS)
        self.heal()
        self.check_alive()
        if not (self.is_lost or self.is_ended):
            finish(self)

    def start(self) -> None:
        """Bring the pair up."""
        self._bring_inputs()
        end = self.timeline.now + START_NS_MAX
        while self.timeline.now < end and not self._is_protected():
            self.play(LOOK_NS)

    def make_bad(self) -> None:
        """Begin the fault phase."""
        self.is_calm = False
        self.ledger.rates = self.plan.rates
        for happening in (*FAULTS, *ACTIONS):
            if happening.kind in self.plan.happenings:
                self._befall(happening, stream(self.seed, happening.kind), is_first=True)

    def heal(self) -> None:
        """End the fault phase: every link and process works from now on."""
        self.trace("HEAL")
        self.is_calm = True
        self.ledger.rates = {}
        self.links.cut.clear()
        self.links.false_answers.clear()
        self.arbiter_faults.is_down = False
        self.arbiter_faults.disk_ns = 0
        for node in self.nodes.values():
            node.go_on()

    def check_alive(self) -> None:
        """Raise Violation unless the guest runs, protected, and its outputs flow, within a bounded time."""
        end = self.timeline.now + CALM_NS_MAX
        released = len(self.outputs.released)
        is_protected = False
        while self.timeline.now < end and not (self.is_lost or self.is_ended):
            self.play(LOOK_NS)
            if not is_protected:
                is_protected, released = self._is_protected(), len(self.outputs.released)
            elif len(self.outputs.released) > released:
                return
        if self.is_lost or self.is_ended:
            return
        actives = [node.name for node in self.nodes.values() if not node.is_dead and node.role is Role.ACTIVE]
        what = "no output flows" if is_protected else "the guest is not protected again"
        raise Violation(
            "liveness", f"{what} in {CALM_NS_MAX // SECOND} s after the world was healed; active: {actives}"
        )

    def play(self, length_ns: int) -> None:
        """Let time go on."""
        self.timeline.run_until(self.timeline.now + length_ns)

    def _is_protected(self) -> bool:
        actives = [node for node in self.nodes.values() if not node.is_dead and node.role is Role.ACTIVE]
        return len(actives) == 1 and actives[0].is_protected

    @property
    def steps(self) -> int:
        """How many steps all nodes together have done."""
        return self._steps_of_dead + sum(node.steps for node in self.nodes.values())

    @property
    def is_lost(self) -> bool:
        """Whether the guest is gone by two failures at once.

        Its host died while its DROP of the standby was open, and the DROP came into force (docs/protocol.md, "Not
        attainable"); or its host died, and what the standby held did not load, so that it was discarded; or its host
        died, and the standby had found it silent before it was named, had read that it is no member, and had begun
        again. Or a host was stopped while the other was dead or out of reach, and said that it has not stopped in
        order.
        """
        record = self.store.record
        alive = {node.view.id for node in self.nodes.values() if not node.is_dead}
        are_both_gone = not alive & {record.active, record.standby}
        had_given_up = record.standby in self.failed_to_load | self.named_too_late
        was_left = bool(self.stopped_badly & {record.active, record.standby})
        return record.active in self.died_dropping or (are_both_gone and (had_given_up or was_left))

    # --- what the nodes use ----------------------------------------------------------------------------------------

    def trace(self, line: str) -> None:
        """Keep a line of the trace, if one is wanted."""
        if self.traces:
            self.lines.append(f"{self.timeline.now / MS:12.3f} {line}")

    def make_guest(self, *, boots: bool) -> SimGuest:
        """Return a guest as this seed has it."""
        plan = self.plan
        return SimGuest(
            page_count=plan.page_count,
            pages_per_step=plan.pages_per_step,
            output_every=plan.output_every,
            boots=boots,
        )

    def settings_for(self, peer: str) -> Settings:
        """Return the settings of a host that dials `peer`."""
        return replace(self._settings, dialled=(peer,))

    def release_delay_ns(self) -> int:
        """Draw how long a release takes to leave its host."""
        return int(self._releases.random() * self.plan.release_ns_max)

    def was_released(self, replica: str, output: Output) -> None:
        """Note that an output left a host."""
        if self.traces:
            self.trace(f"OUT {output.number} of {replica}")
        self.outputs.was_released(replica, output)

    # --- happenings ------------------------------------------------------------------------------------------------

    def active(self) -> Node | None:
        """Return the node where the guest runs by the arbiter's word, if it is up."""
        named = self.store.record.active
        for node in self.nodes.values():
            if node.is_up and node.role is Role.ACTIVE and node.view.id == named:
                return node
        return None

    def is_survived_by_other(self, address: str) -> bool:
        """Whether the guest would live on if this host, which is alive, died now."""
        other = self.nodes["b" if address == "a" else "a"]
        record = self.store.record
        is_member = other.view.id in (record.active, record.standby) and other.guest.death is None
        return is_member and not (other.is_dead or other.driver.is_leaving or self.nodes[address].is_dead)

    def lives(self, replica: str | None) -> bool:
        """Whether a replica of this id is there, stopped or not."""
        return any(not node.is_dead and node.view.id == replica for node in self.nodes.values())

    def crash(self, address: str) -> None:
        """End a host."""
        view = self.nodes[address].view
        if view.proposal is not None and view.proposal.standby is None:
            self.died_dropping.add(view.id)
        self.nodes[address].crash()

    def reboot(self, address: str) -> None:
        """Start a dead host anew, with nothing."""
        self._steps_of_dead += self.nodes[address].steps
        self.nodes[address] = self._boot(address, "b" if address == "a" else "a", starts=False)

    def _boot(self, address: str, peer: str, *, starts: bool) -> Node:
        self.incarnations[address] += 1
        return Node(self, address, peer, self.incarnations[address], starts)

    def _befall(self, happening: Happening, chance: random.Random, *, is_first: bool = False) -> None:
        """Plan the next of a kind, and after that the one after it."""
        least, most = happening.gap_ms
        delay_ns = chance.randrange((0 if is_first else least) * MS, most * MS)
        details = chance.getrandbits(64)  # drawn even if it does not come: those after it stay as they are

        def come() -> None:
            if self.is_calm:
                return
            if happening.is_possible(self) and self.ledger.admits(happening.kind):
                happening.act(self, random.Random(details))
            self._befall(happening, chance)

        self.timeline.after(delay_ns, come)

    # --- the outside -----------------------------------------------------------------------------------------------

    def _bring_inputs(self) -> None:
        """Send an input to every host, as a hub would; only the active takes it."""
        payload = self._inputs.randbytes(8)
        for node in self.nodes.values():
            if not node.is_dead and node.role is Role.ACTIVE:
                node.outside.put(payload)
                node.wake()
        self.timeline.after(self._inputs.randrange(self.plan.input_ns_max), self._bring_inputs)

    def _was_dropped(self, standby: str) -> None:
        """Check that nobody is dropped who alone could go on."""
        for node in self.nodes.values():
            if node.survivor == standby and self.lives(standby):
                raise Violation("stop", f"the guest of {node.name} had failed, and its standby {standby} was dropped")

    def _was_vacated(self, before: Record) -> None:
        """Note that the guest has ended, by the word of a host that stops."""
        self.is_ended = self.is_calm = True
        (host,) = (node for node in self.nodes.values() if before.active in node.ids)
        if not host.driver.is_leaving:
            raise Violation("stop", f"{host.name} has vacated the record, and nobody had asked it to stop")

    def _on_record(self, before: Record, after: Record) -> None:
        self.trace(f"RECORD {after}")
        self.records.changed(before, after)
        if after.active is None:
            self._was_vacated(before)
        if before.standby is not None and after.standby is None and after.active != before.standby:
            self._was_dropped(before.standby)
        if after.standby is not None and after.standby != before.standby:
            suspected_at = self.suspecting.get(after.standby, self.timeline.now)
            if self.timeline.now - suspected_at > PATIENCE_NS:
                self.named_too_late.add(after.standby)
        if self.ledger.strikes("ambush"):
            ambush(self, stream(self.seed, "ambush", str(after.generation)))
