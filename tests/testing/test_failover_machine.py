"""FailoverMachine fails guests over, and notices when one does not come out as it went in."""

import struct
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

import ftvm
from ftvm.checkpoint import Output
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.lockstep import Lockstep
from ftvm.interfaces import Engine, Guest
from ftvm.sim.guest import SimGuest
from ftvm.testing import ContractBroken, FailoverMachine
from ftvm.testing.transcript import Transcript

FEW = settings(
    max_examples=6,
    stateful_step_count=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate,),
)


class Honest(SimGuest):
    def __init__(self, boots: bool) -> None:
        super().__init__(page_count=24, pages_per_step=2, output_every=2, boots=boots)


def what_it_says(steps: int) -> list[bytes]:
    """Return what the guest says in its first steps if nothing ever happens to it."""
    guest, sink = Honest(boots=True), Transcript()
    guest.attach(sink)
    guest.resume()
    for _ in range(steps):
        guest.advance()
    return [said.payload for said in sink.said]


EXPECTED = what_it_says(40_000)


class SimFailover(FailoverMachine):
    kind: ClassVar[type[Honest]] = Honest

    def make_guest(self, *, boots: bool) -> Guest:
        return self.kind(boots)

    def let_run(self, guest: Guest) -> None:
        assert isinstance(guest, SimGuest)
        guest.advance()

    def is_right(self, outputs: Sequence[Output]) -> bool:
        return [output.payload for output in outputs[-20:]] == EXPECTED[: len(outputs)][-20:]


class FedSimFailover(SimFailover):
    inputs = st.tuples(st.just("net0"), st.binary(min_size=1, max_size=9))

    def is_right(self, outputs: Sequence[Output]) -> bool:
        del outputs
        return True


class ForgetsARegister(Honest):
    def load_devices(self, devices: bytes) -> None:
        super().load_devices(devices)
        self._steps = 0


class ForgetsWhenItIsSaved(Honest):
    def save_devices(self) -> bytes:
        saved = super().save_devices()
        return saved[:4] + struct.pack("<Q", max(0, self._steps - 1))


class LosesItsMemoryWhenLoaded(Honest):
    def load_devices(self, devices: bytes) -> None:
        super().load_devices(devices)
        self._view[:8] = bytes(8)


BROKEN = [ForgetsARegister, ForgetsWhenItIsSaved, LosesItsMemoryWhenLoaded]
"""A page that goes unreported is not among them: the scrub ends the session before any harm; check_guest finds it."""


@pytest.mark.parametrize("machine", [SimFailover, FedSimFailover])
@pytest.mark.parametrize("with_engine", [ftvm.Remus(0.005), ftvm.Kemari(0.005), Lockstep(0.01), Hybrid(0.02)], ids=repr)
def test_honest_guest_is_failed_over_under_every_engine(machine: type[SimFailover], with_engine: Engine) -> None:
    class Failover(machine):  # type: ignore[misc, valid-type]
        engine = with_engine

    run_state_machine_as_test(Failover, settings=FEW)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: kind.__name__)
def test_guest_that_does_not_come_out_as_it_went_in_is_found(broken: type[Honest]) -> None:
    class Failover(SimFailover):
        kind = broken

    with pytest.raises(ContractBroken):
        run_state_machine_as_test(Failover, settings=FEW)


def test_guest_with_a_thread_of_its_own_is_failed_over() -> None:
    class Failover(FailoverMachine):
        def make_guest(self, *, boots: bool) -> Guest:
            program = ftvm.read_program("ticks") if boots else None
            line = "ms=1 beats=0"
            clock = ftvm.MonotonicClock()
            return ftvm.RiscvGuest(program, clock=clock, memory_bytes=1 << 20, mac=None, command_line=line)

        def is_right(self, outputs: Sequence[Output]) -> bool:
            return all(
                output.payload == b"ticks: beat %d\n" % (10 * (number + 1)) for number, output in enumerate(outputs[1:])
            )

    run_state_machine_as_test(Failover, settings=settings(FEW, max_examples=4))
