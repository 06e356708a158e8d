"""One life of a pair with one fault in it: protected, a takeover, a resync; and what must hold whatever fails.

Production code but for guest, clock and network; the arbiter is the one made of files. A host is stopped by an error
that leaves its step, as runtime/host.py does it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from ftvm.arbiters.file import FileRecordStore
from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import FtvmError, InternalError
from ftvm.events import RecordLearned, RoleChanged
from ftvm.interfaces import Record
from ftvm.protocol.view import Role
from ftvm.sim.checkers import ActiveChecker, OutputChecker, StateChecker
from ftvm.testing.pair import MS, Pair, SteppedHost
from ftvm.units import Nanos

from .seams import MARK, Fault

STEP_MS: Final = 4
TIMING: Final = Timing(
    heartbeat_ns=Nanos(20 * MS),
    primary_limit_ns=Nanos(120 * MS),
    backup_limit_ns=Nanos(80 * MS),
    join_interval_ns=Nanos(20 * MS),
    read_interval_ns=Nanos(20 * MS),
    arbiter_poll_ns=Nanos(100 * MS),
)
PATIENCE_MS: Final = 4_000


class Trial(Pair):
    """Hosts a (starts), b (joins, takes over) and c (joins b)."""

    def __init__(self, fault: Fault, directory: Path, engine: str) -> None:
        self.fault = fault
        self.stopped: dict[str, FtvmError] = {}
        self.was_killed = False
        self.outputs, self.states = OutputChecker(), StateChecker()
        super().__init__(
            engine=engine_named(engine, 0.02),
            store=FileRecordStore(directory),
            timing=TIMING,
            on_output=lambda machine, output: self.outputs.was_released(machine.id, output),
        )
        for machine in self.alive:
            self.watch(machine)

    def play(self) -> None:
        """Play the life: the fault comes when it comes."""
        self.wait(lambda: self.is_protected(self.b), 400)
        self.live(100)
        if self.is_protected(self.b) and self.b in self.alive:
            self.was_killed = True
            if self.a in self.alive:
                self.kill(self.a)
        self.wait(lambda: self.b.role is Role.ACTIVE, 400)
        machine = self.boot("c", "b")
        self.watch(machine)
        self.wait(lambda: self.is_protected(machine), 400)
        self.live(100)

    def check(self) -> None:
        """Heal the fault; then: each invariant held all along, what happened was named, and the guest lives on."""
        self.fault.heal()
        if self.fault.is_met and self.fault.seam != "full queue":
            assert self.is_named(), f"nobody said what had failed: {self.fault.calls}"
        self.check_actives()
        if self.is_excused():
            return
        self.wait(lambda: self.who_runs() is not None, PATIENCE_MS)
        runner = self.who_runs()
        assert runner is not None, f"the guest is lost: stopped {self.stopped}"
        left = len(self.outputs.released)
        self.wait(lambda: len(self.outputs.released) > left + 4, PATIENCE_MS)
        assert len(self.outputs.released) > left + 4, "no output leaves any more"

    # --- what is so ------------------------------------------------------------------------------------------------

    def is_protected(self, standby: SteppedHost) -> bool:
        """Whether the record names this machine as the standby; read past the seam."""
        record = self.record()
        return record.standby is not None and record.standby == standby.id

    def who_runs(self) -> SteppedHost | None:
        running = [machine for machine in self.alive if machine.role is Role.ACTIVE and machine.guest.is_running]
        return running[0] if len(running) == 1 else None

    def is_excused(self) -> bool:
        """Two failures that overlap lose the guest: the one that was planned, and a host that the fault stopped."""
        return self.was_killed and "b" in self.stopped and not self.is_protected(self.hosts["c"])

    def is_named(self) -> bool:
        told = [str(event) for machine in self.hosts.values() for event in machine.events]
        raised = [f"{error} {error.__cause__!r}" for error in self.stopped.values()]
        written = "was not published" in " ".join(told) or "No space left" in " ".join(told)
        # Removing what crashed writers left behind may fail in silence: arbiters/file.py says why.
        is_harmless = self.fault.calls == ["listdir"] and not self.stopped
        return is_harmless or any(MARK in line for line in told + raised) or ("write" in self.fault.calls and written)

    def check_actives(self) -> None:
        checker = ActiveChecker()
        for machine in self.hosts.values():
            known = Record(0, None, None)
            for event in machine.events:
                if isinstance(event, RecordLearned):
                    known = Record(event.generation, event.active, event.standby)
                elif isinstance(event, RoleChanged) and event.role == Role.ACTIVE.value:
                    checker.became_active(known, event.replica_id)

    # --- living ----------------------------------------------------------------------------------------------------

    def watch(self, machine: SteppedHost) -> None:
        """See each cut."""

        def was_cut(fingerprint: bytes) -> None:
            if machine.role is Role.ACTIVE:
                self.states.was_cut(machine.id, machine.active.epoch + 1, fingerprint)

        machine.guest.on_saved = was_cut

    def live(self, milliseconds: int) -> None:
        for _ in range(milliseconds // STEP_MS):
            self.clock.elapse(STEP_MS)
            for _ in range(2):
                for machine in list(self.alive):
                    machine.guest.advance()
                    self.step(machine)

    def wait(self, is_true: Callable[[], object], milliseconds: int) -> None:
        for _ in range(milliseconds // STEP_MS):
            if is_true():
                return
            self.live(STEP_MS)

    def step(self, machine: SteppedHost) -> None:
        before, name = machine.view, machine.name
        with self.fault.on(name):
            try:
                machine.step()
            except Exception as wrong:  # noqa: BLE001 - as runtime/host.py: fail-stop, whatever it was
                self.stop(machine, wrong)
        if machine.driver.failure is not None and machine in self.alive:
            self.stopped[name] = machine.driver.failure
            self.kill(machine)
        had = before.standby  # with all that it committed in this step
        if had is not None and machine.role is Role.ACTIVE and not had.log:
            self.states.runs_from(had.session.active, had.epoch or 0, machine.guest.fingerprint())

    def stop(self, machine: SteppedHost, wrong: Exception) -> None:
        error = wrong if isinstance(wrong, FtvmError) else InternalError(f"the host's loop broke: {wrong!r}")
        self.stopped[machine.name] = error
        machine.endpoint.halt(error)
        assert not machine.guest.is_running
        self.kill(machine)
