"""A guest is paused once and goes on once, however often it is asked; one that stops itself has stopped before that."""

from collections.abc import Sequence
from typing import Any

import pytest

from ftvm.engines.kemari import Kemari
from ftvm.engines.remus import Remus
from ftvm.interfaces import Capability
from ftvm.protocol.effects import RunGuest
from ftvm.runtime.runner import GuestRunner
from ftvm.runtime.sink import NumberingSink
from ftvm.testing.pair import ManualClock


class RecordingGuest:
    """Notes what is asked of it."""

    can = frozenset({Capability.EXACT_OUTPUT_STOP, Capability.TELLS_IDLE})
    stops = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def pause(self) -> None:
        self.calls.append("pause")

    def resume(self) -> None:
        self.calls.append("resume")

    def stop_at_output(self, is_wanted: bool) -> None:
        self.stops = is_wanted

    def is_idle(self) -> bool:
        return True


class Bench:
    def __init__(self, engine: Any) -> None:
        self.guest: Any = RecordingGuest()
        self.sink = NumberingSink(lambda: None, ManualClock())
        self.runner = GuestRunner(self.guest, self.sink, memory=None)  # type: ignore[arg-type]
        self.runner.run(RunGuest(1, 1, (), engine))
        self.guest.calls.clear()

    def settled(self, *must_stand_still: bool) -> Sequence[str]:
        for must in must_stand_still:
            self.runner.stall_or_go_on(must_stand_still=must)
        return self.guest.calls


def test_a_guest_is_asked_for_a_silence_only_if_it_tells_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Bench(Remus()).runner.silence()
    monkeypatch.setattr(RecordingGuest, "can", frozenset({Capability.TELLS_SILENCE}))
    monkeypatch.setattr(RecordingGuest, "silence", lambda _: "QEMU is silent", raising=False)

    assert (before, Bench(Remus()).runner.silence()) == (None, "QEMU is silent")


def test_a_guest_that_runs_is_left_alone() -> None:
    assert Bench(Remus()).settled(False, False) == []


def test_a_guest_is_paused_once_and_goes_on_once() -> None:
    bench = Bench(Remus())
    bench.runner.stall()

    assert bench.settled(True, True, False, False) == ["pause", "resume"]


@pytest.mark.parametrize("is_emitting", [False, True])
def test_a_guest_that_stops_itself_is_paused_and_goes_on_only_when_it_has_emitted(is_emitting: bool) -> None:
    bench = Bench(Kemari())
    if is_emitting:
        bench.sink.emit("net0", b"x")

    emitted = bench.runner.take_emitted()

    assert len(emitted.outputs) == is_emitting
    assert bench.settled(False, False) == (["pause", "resume"] if is_emitting else [])


@pytest.mark.parametrize("engine", [Kemari(), Kemari(group=0.001), Remus()], ids=repr)
def test_only_a_guest_whose_outputs_share_a_cut_goes_on_behind_them_and_is_asked_whether_it_is_idle(
    engine: Kemari | Remus,
) -> None:
    bench = Bench(engine)
    bench.sink.emit("net0", b"x")

    emitted = bench.runner.take_emitted()

    is_strict, is_grouped = engine == Kemari(), isinstance(engine, Kemari) and engine.group > 0
    assert bench.guest.stops is is_strict
    assert bench.guest.calls == (["pause"] if is_strict else [])
    assert emitted.is_guest_idle is is_grouped


class TakingGuest(RecordingGuest):
    """Notes the inputs that it is given, one by one or together, and whether its sink is heard meanwhile."""

    is_heard = False

    def deliver(self, channel: str, payload: bytes) -> None:
        self.calls.append(f"{channel} {payload.decode()}")

    def deliver_all(self, inputs: Sequence[tuple[str, bytes]]) -> None:
        self.calls.append(" and ".join(f"{channel} {payload.decode()}" for channel, payload in inputs))
        self.is_heard = self.sink.is_heard


@pytest.mark.parametrize("takes_groups", [False, True])
def test_inputs_go_together_to_a_guest_that_takes_them_so(takes_groups: bool) -> None:
    guest: Any = TakingGuest()
    guest.can = frozenset({Capability.TAKES_GROUPS} if takes_groups else ())
    guest.sink = sink = NumberingSink(lambda: None, ManualClock())
    runner = GuestRunner(guest, sink, memory=None)  # type: ignore[arg-type]
    runner.deliver([("net0", b"too early")])
    runner.run(RunGuest(1, 1, (), Remus()))
    guest.calls.clear()

    runner.deliver([("net0", b"a"), ("console", b"b")])

    assert guest.calls == (["net0 a and console b"] if takes_groups else ["net0 a", "console b"])
    assert (guest.is_heard, sink.is_heard) == (takes_groups, False)


def test_a_guest_that_is_no_longer_here_does_not_go_on() -> None:
    bench = Bench(Remus())
    bench.runner.pause_for_good()

    assert bench.settled(False) == ["pause"]
