"""FailoverMachine: a hypothesis state machine that fails an author's guest over, and watches what leaves.

Two hosts run the production driver and protocol with the author's guest; hypothesis chooses when the guest runs, is
given inputs, loses a host, is cut off, comes back, or is handed over on purpose. Whatever happens, no output may be
contradicted, left out or lost, and once nothing is broken any more, the guest must run protected.

    class MyFailover(FailoverMachine):
        def make_guest(self, *, boots):
            return MyGuest(boots)

    TestMyFailover = MyFailover.TestCase
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from ftvm.checkpoint import Output
from ftvm.config import Timing
from ftvm.engines.remus import Remus
from ftvm.errors import FtvmError, LocalProtocolError
from ftvm.interfaces import Engine, Guest
from ftvm.sim.checkers import InvariantViolated, OutputChecker
from ftvm.testing.contract import ContractBroken, require
from ftvm.testing.pair import MS, Pair, SteppedHost, let_run
from ftvm.units import Nanos

__all__ = ["FailoverMachine"]

_NEVER_CONTRADICTED: Final = "No output that left is contradicted, left out or lost"
_RIGHT: Final = "The outputs that left, each taken once, are what the program makes"
_GOES_ON: Final = "A guest goes on whatever happens to its hosts, one at a time"
_PROTECTED: Final = "Once all is well again, the guest is protected again"

_OTHER: Final = {"a": "b", "b": "a"}
_PATIENCE_MS: Final = 5_000


class FailoverMachine(RuleBasedStateMachine):
    """Subclass it, define `make_guest`, and hand its `TestCase` to your test runner.

    engine  when to cut
    inputs  draws what the world sends, as (channel, payload); None: nothing
    timing  when silence becomes suspicion, on a clock of the machine's own
    """

    engine: ClassVar[Engine] = Remus(interval=0.005)
    inputs: ClassVar[st.SearchStrategy[tuple[str, bytes]] | None] = None
    timing: ClassVar[Timing] = Timing(
        heartbeat_ns=Nanos(5 * MS),
        primary_limit_ns=Nanos(50 * MS),
        backup_limit_ns=Nanos(30 * MS),
        join_interval_ns=Nanos(10 * MS),
        read_interval_ns=Nanos(10 * MS),
        arbiter_poll_ns=Nanos(100 * MS),
    )

    def make_guest(self, *, boots: bool) -> Guest:
        """Return a new guest; if it does not boot, its state comes from the other host."""
        raise NotImplementedError

    def let_run(self, guest: Guest) -> None:
        """Return when a guest that was resumed has run for about a millisecond. Override for one without a thread."""
        let_run(guest)

    def is_right(self, outputs: Sequence[Output]) -> bool:
        """Tell whether these outputs, all that ever left, each once and in order, are what your program makes."""
        del outputs
        return True

    def __init__(self) -> None:
        super().__init__()
        self._left: list[tuple[str, Output]] = []
        self._outputs: list[Output] = []
        self._checker = OutputChecker()
        self._is_broken = False
        self._pair = Pair(
            guest=lambda boots: self.make_guest(boots=boots),
            let_run=self.let_run,
            on_output=self._take,
            engine=self.engine,
            timing=self.timing,
        )
        self._until_protected()

    # --- what happens ----------------------------------------------------------------------------------------------

    @rule(milliseconds=st.integers(1, 60))
    def run(self, milliseconds: int) -> None:
        """Time passes."""
        self._live(milliseconds)

    @precondition(lambda self: self.inputs is not None)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """The world says something, to both hosts, as a hub would."""
        if self.inputs is not None:
            channel, payload = data.draw(self.inputs)
            for host in self._pair.alive:
                host.world.put(channel, payload)
            self._live(1)

    @precondition(lambda self: self._can_lose("active"))
    @rule()
    def kill_the_active(self) -> None:
        """The host that runs the guest dies."""
        self._kill("active")

    @precondition(lambda self: self._can_lose("standby"))
    @rule()
    def kill_the_standby(self) -> None:
        """The host that stands by dies."""
        self._kill("standby")

    @precondition(lambda self: len(self._pair.alive) == 1)
    @rule()
    def bring_back(self) -> None:
        """The dead host starts again, with nothing."""
        (alive,) = self._pair.alive
        self._pair.boot(_OTHER[alive.name], alive.name)
        self._live(1)

    @rule(senders=st.sets(st.sampled_from("ab"), min_size=1))
    def partition(self, senders: set[str]) -> None:
        """What these hosts send gets lost from now on."""
        self._pair.cut_off(*senders)

    @precondition(lambda self: bool(self._pair.network.cut_off))
    @rule()
    def heal(self) -> None:
        """Messages arrive again."""
        self._pair.heal()

    @precondition(lambda self: self._named("standby") is not None)
    @rule()
    def switch_over(self) -> None:
        """An operator asks for the guest to go on over there. It may be called off."""
        active = self._named("active")
        if active is not None:
            with suppress(
                LocalProtocolError
            ):  # the hosts may not have noticed yet that they are a pair, or no longer are
                active.driver.begin_switchover(Nanos(100 * MS))
            self._live(20)

    @precondition(lambda self: len(self._pair.alive) == 2)
    @rule()
    def re_protect(self) -> None:
        """All is well for as long as it takes."""
        self._until_protected()

    def teardown(self) -> None:
        """Check that the guest lives, and close all."""
        try:
            if not self._is_broken and self._pair.alive:
                if len(self._pair.alive) == 1:
                    self.bring_back()
                self._until_protected()
        finally:
            self._pair.close()

    # --- the hosts -------------------------------------------------------------------------------------------------

    def _take(self, host: SteppedHost, output: Output) -> None:
        """Note an output with the stint that it is of: a replica may be active, stand by, and be active again."""
        self._left.append((f"{host.id} in generation {host.view.record.generation}", output))

    def _named(self, place: str) -> SteppedHost | None:
        """Return the living host that the arbiter's record names as "active" or "standby"."""
        replica = getattr(self._pair.record(), place)
        return next((host for host in self._pair.alive if host.id == replica), None)

    def _can_lose(self, place: str) -> bool:
        """Whether that host may die: the other one must be in the record too, or the guest would die with it."""
        return self._named(place) is not None and self._named("standby" if place == "active" else "active") is not None

    def _kill(self, place: str) -> None:
        victim = self._named(place)
        if victim is not None:
            self._pair.kill(victim)
            self._live(1)

    def _live(self, milliseconds: int) -> None:
        """Let everybody who is alive live for a while."""
        try:
            for _ in range(milliseconds):
                self._pair.run(1)
                self._check()
        except (FtvmError, ContractBroken):
            self._is_broken = True
            raise

    def _until_protected(self) -> None:
        self._pair.heal()
        for _ in range(_PATIENCE_MS):
            self._live(1)
            active, standby = self._named("active"), self._named("standby")
            if active is not None and standby is not None and active.driver.is_active:
                self._live(50)
                return
        self._is_broken = True
        events = {host.name: [type(event).__name__ for event in host.events[-8:]] for host in self._pair.alive}
        require(False, _PROTECTED, f"{self._pair.record()} after {_PATIENCE_MS} ms; latest {events}")

    def _check(self) -> None:
        left, self._left = self._left, []
        for replica, output in left:
            try:
                self._checker.was_released(replica, output)
            except InvariantViolated as violation:
                raise ContractBroken(_NEVER_CONTRADICTED, str(violation)) from violation
            if output.number == len(self._outputs) + 1:
                self._outputs.append(output)
        require(not left or self.is_right(self._outputs), _RIGHT, f"the latest are {self._outputs[-5:]}")
        for host in self._pair.alive:
            failure = host.driver.failure
            require(failure is None, _GOES_ON, f"host {host.name} ended: {failure}")
