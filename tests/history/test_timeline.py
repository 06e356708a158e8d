"""The time machine: each place in the past is one state, however it is come to."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.checkpoint import GuestPosition, LogKind
from ftvm.errors import ConfigError, GuestError
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape
from ftvm.guests.riscv.programs import read_program
from ftvm.guests.riscv.standalone import run_standalone
from ftvm.history.hooks import HitKind, Hooks, InputLog
from ftvm.history.recording import Recording
from ftvm.history.timeline import Moment, TimeMachine

from ..guests.riscv.assembly import LI_WORDS, addi, jal, li, store
from .past import kv_past, recorded, recorded_words

SPACING = 5_000
KV_SPACING = 100_000
"""The server clears four megabytes before it serves."""


@pytest.fixture(scope="module")
def kv() -> Recording:
    return kv_past(30)


@pytest.fixture(scope="module")
def journal() -> Recording:
    """A program that writes to its disk."""
    machine = recorded(read_program("journal"), MachineShape(ram_bytes=8 << 20, disk_bytes=1 << 20))
    run_standalone(machine, say=lambda _: None, instructions_max=400_000)
    return machine.recording()


@pytest.fixture
def past(kv: Recording) -> Iterator[TimeMachine]:
    with TimeMachine(kv, spacing=KV_SPACING) as machine:
        yield machine


def seen(past: TimeMachine) -> str:
    """Return a digest of all that can be seen of a place."""
    memory = past.read(RAM_BASE, past.shape.ram_bytes)
    assert memory is not None
    digest = xxhash.xxh3_128(memory)
    disk = past._machine.disk
    digest.update(disk.buffer if disk is not None else b"")
    digest.update(repr([past.register(number) for number in range(33)]).encode())
    digest.update(repr((past.position, past.moment, [past.csr(number) for number in range(0x300, 0x345)])).encode())
    return digest.hexdigest()


def straight(recording: Recording, retired: int) -> str:
    with TimeMachine(recording, spacing=1 << 60) as fresh:
        fresh.go(retired)
        return seen(fresh)


# --- going ---


@pytest.mark.parametrize("bytes_max", [1 << 30, 200_000], ids=["roomy", "scarce"])
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_any_way_to_a_place_shows_the_same_state(kv: Recording, bytes_max: int, data: st.DataObject) -> None:
    with TimeMachine(kv, spacing=KV_SPACING, bytes_max=bytes_max) as past:
        places = data.draw(st.lists(st.integers(0, past.end), min_size=2, max_size=5))
        for place in places:
            past.go(place)
            for _ in range(data.draw(st.integers(0, 3))):
                past.step_back()
            for _ in range(data.draw(st.integers(0, 2))):
                past.step()

            assert seen(past) == straight(kv, past.moment.retired)


def test_a_disk_goes_back_as_memory_does(journal: Recording) -> None:
    with TimeMachine(journal, spacing=SPACING) as past:
        past.go(past.end)
        for place in (past.end - 1_000, past.end // 2, past.end // 3):
            past.go(place)

            assert seen(past) == straight(journal, place)


def test_a_recording_that_lost_its_last_wait_is_found_at_its_end(kv: Recording) -> None:
    """The number of its instructions is right, and so is each input before: only time and memory differ."""
    last = max(place for place, record in enumerate(kv.inputs) if record.kind is LogKind.CLOCK)
    inputs = kv.inputs[:last]
    ended = replace(kv, inputs=inputs, end=GuestPosition(inputs[-1].position.retired, kv.end.idled))

    with (
        TimeMachine(ended, spacing=KV_SPACING) as past,
        pytest.raises(GuestError, match=r"stands at .* recording ends"),
    ):
        past.go(past.end)


def test_a_recordings_end_is_checked_by_its_memory(kv: Recording) -> None:
    assert kv.digest is not None
    other = replace(kv, digest=kv.digest ^ 1)

    with TimeMachine(other, spacing=KV_SPACING) as past:
        past.go(past.end - 1)
        with pytest.raises(GuestError, match="memory is not the one of the recording's end"):
            past.go(past.end)


def test_both_ends_of_the_past_are_told(past: TimeMachine) -> None:
    past.go(past.end)
    assert past.step() == ("end", None)
    past.go(past.start)
    assert past.step_back() == ("begin", None)


def test_an_instruction_beyond_the_past_is_refused_with_the_range_and_nothing_moves(past: TimeMachine) -> None:
    """Regression: it went to the nearer end without a word."""
    past.go(past.end // 2)
    before = past.moment

    for beyond in (past.start - 1, past.end + 1):
        with pytest.raises(ConfigError, match=f"instruction {beyond} .* from {past.start} to {past.end}$"):
            past.go(beyond)

    assert past.moment == before


def test_the_end_is_the_end_of_the_recording(kv: Recording, past: TimeMachine) -> None:
    past.go(past.end)

    assert past.position == kv.end
    assert past.moment.inputs == len(kv.inputs)


def test_steps_back_undo_steps(past: TimeMachine) -> None:
    past.go(30_000)
    places = [(past.moment, past.register(32))]
    for _ in range(60):
        past.step()
        places.append((past.moment, past.register(32)))

    for place in reversed(places[:-1]):
        past.step_back()
        assert (past.moment, past.register(32)) == place


def test_steps_back_from_afar_lay_states_to_step_back_from(kv: Recording) -> None:
    with TimeMachine(kv, spacing=1 << 60) as past:
        past.go(past.end)
        past.step_back()

        assert len(past._waypoints) > 3
        assert seen(past) == straight(kv, past.end - 1)


def test_memory_for_states_is_bounded_by_moving_them_apart(kv: Recording) -> None:
    with TimeMachine(kv, spacing=20_000, bytes_max=600_000) as past:
        past.go(past.end)

        held = sum(len(waypoint.pages) for waypoint in past._waypoints._list[1:]) * 4096
        assert held == past._waypoints._bytes
        assert held <= 600_000 or len(past._waypoints) <= 3


def test_a_guest_larger_than_the_room_for_states_still_has_some() -> None:
    """What lies in memory from the beginning does not count."""
    machine = recorded_words([*li(5, RAM_BASE + 0x8000), addi(1, 1, 1), store(1, 5), jal(0, -8)])
    machine.ram.write(0x10000, b"x" * 0x80000)
    machine.begin()
    machine.run(100_000)

    with TimeMachine(machine.recording(), spacing=10_000, bytes_max=0x40000) as past:
        past.go(past.end)

        assert len(past._waypoints) >= 10


# --- hits ---


def looping() -> Recording:
    """Store a counter at one place, again and again."""
    machine = recorded_words([*li(5, RAM_BASE + 0x8000), addi(1, 1, 1), store(1, 5), addi(2, 2, 1), jal(0, -12)])
    machine.run(40_001 + LI_WORDS)
    return machine.recording()


LOOP_AT = RAM_BASE + 4 * LI_WORDS


def test_a_run_on_stops_at_each_hit_and_at_the_end() -> None:
    with TimeMachine(looping(), spacing=SPACING) as past:
        past.set_break(LOOP_AT)
        stops = [past.run_on() for _ in range(3)]

        assert [hit is not None and hit.retired for _, hit in stops] == [LI_WORDS + 4 * n for n in range(3)]
        past.set_break(LOOP_AT, False)
        assert past.run_on() == ("end", None)
        assert past.moment.retired == past.end


def test_the_last_hit_is_the_last_one_before_this_place_and_not_the_first_of_its_stretch() -> None:
    """A search that stopped at the hits that it meets would find a plausible wrong one."""
    with TimeMachine(looping(), spacing=SPACING) as past:
        past.go(past.end)
        past.set_break(LOOP_AT)

        found = [past.last_hit() for _ in range(3)]

        assert [hit is not None and hit.retired for _, hit in found] == [
            LI_WORDS + 4 * n for n in (10_000, 9_999, 9_998)
        ]
        assert past.register(32) == LOOP_AT


def test_without_a_hit_the_search_ends_at_the_begin() -> None:
    with TimeMachine(looping(), spacing=SPACING) as past:
        past.go(past.end)
        past.set_watch(RAM_BASE + 0x9000, 8)

        assert past.last_hit() == ("begin", None)
        assert past.moment == Moment(0, 0)


def test_the_last_write_stands_before_the_instruction_that_writes() -> None:
    with TimeMachine(looping(), spacing=SPACING) as past:
        past.go(past.end)
        counter = past.read(RAM_BASE + 0x8000, 8)
        assert counter is not None

        moment = past.last_write(RAM_BASE + 0x8000)

        assert moment == Moment(LI_WORDS + 4 * 9_999 + 1, 0)
        assert past.register(32) == LOOP_AT + 4
        assert past.register(1) == int.from_bytes(counter, "little")
        assert past.last_write(RAM_BASE + 0x8000) == Moment(LI_WORDS + 4 * 9_998 + 1, 0)


def test_a_search_executes_no_stretch_in_which_only_neighbours_were_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop writes the page all the time; the word beside its counter was written once, before it."""
    machine = recorded_words([*li(5, RAM_BASE + 0x8000), store(5, 5, 8), addi(1, 1, 1), store(1, 5), jal(0, -8)])
    machine.run(40_000)
    searched: list[Moment] = []
    last_in = TimeMachine._last_in
    monkeypatch.setattr(
        TimeMachine, "_last_in", lambda past, at, limit: searched.append(at.moment) or last_in(past, at, limit)
    )

    with TimeMachine(machine.recording(), spacing=SPACING) as past:
        past.go(past.end)
        moment = past.last_write(RAM_BASE + 0x8008)

    assert moment == Moment(LI_WORDS, 0)
    assert searched == [Moment(0, 0)]


def test_states_that_were_merged_still_know_what_was_written_before_each() -> None:
    machine = recorded_words([*li(5, RAM_BASE + 0x8000), addi(1, 1, 1), store(1, 5), addi(5, 5, 8), jal(0, -12)])
    machine.run(20_000)
    with TimeMachine(machine.recording(), spacing=100, bytes_max=30_000) as past:
        for word in (3, 700, 2_600, 4_900):
            past.go(past.end)

            assert past.last_write(RAM_BASE + 0x8000 + 8 * word) == Moment(LI_WORDS + 4 * word + 1, 0)


@pytest.mark.parametrize("bytes_max", [1 << 30, 30_000], ids=["roomy", "scarce"])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_the_last_write_is_found_on_any_way_through_the_past(bytes_max: int, data: st.DataObject) -> None:
    """Also after steps back, with few states, and behind a stretch that was counted."""
    with TimeMachine(looping(), spacing=700, bytes_max=bytes_max) as past:
        for _ in range(data.draw(st.integers(1, 4))):
            past.go(data.draw(st.integers(LI_WORDS + 8, past.end)))
            for _ in range(data.draw(st.integers(0, 2))):
                past.step_back()
            if data.draw(st.booleans()):
                with past.hooks.counting():
                    past.execute(min(past.end, past.moment.retired + 900))
            here = past.moment.retired

            moment = past.last_write(RAM_BASE + 0x8000)

            rounds = (here - LI_WORDS - 2) // 4
            assert moment == Moment(LI_WORDS + 4 * rounds + 1, 0)


def test_the_last_write_of_what_was_never_written_moves_nowhere() -> None:
    with TimeMachine(looping(), spacing=SPACING) as past:
        past.go(12_345)
        past.set_break(LOOP_AT)

        assert past.last_write(RAM_BASE + 0x9000) is None
        assert past.moment.retired == 12_345
        assert past.run_on()[0] == "hit"  # what was set before is set again


def test_the_last_write_of_what_is_not_memory_is_refused(past: TimeMachine) -> None:
    with pytest.raises(ConfigError, match="8 bytes at 0x1000 are not in the machine's memory"):
        past.last_write(0x1000)


def test_the_last_write_by_a_device_stands_before_the_input_that_brought_it(kv: Recording, past: TimeMachine) -> None:
    """The card writes a frame to memory between two instructions: several inputs lie at that position."""
    frame = max((record for record in kv.inputs if record.channel == "net0"), key=lambda record: record.index)
    past.go(past.end)
    memory = past.read(RAM_BASE, past.shape.ram_bytes)
    assert memory is not None
    places = [at for at in range(0, len(memory) - 64, 2) if memory[at : at + 42] == frame.payload[:42]]

    right_before = Moment(frame.position.retired, frame.index - 1)

    assert any(past.last_write(RAM_BASE + at, 42) == right_before for at in places)


@given(st.integers(0, 60), st.sampled_from([0, 4, 8, 12]))
@settings(max_examples=15, deadline=None)
def test_backwards_finds_what_forwards_met(steps: int, offset: int) -> None:
    with TimeMachine(looping(), spacing=700) as past:
        past.go(10_000 + steps)
        past.set_break(LOOP_AT + offset)
        past.run_on()
        _, second = past.run_on()
        _, third = past.run_on()
        assert third is not None

        _, found = past.last_hit()

        assert found is not None
        assert second is not None
        assert (found.retired, found.address) == (second.retired, second.address)
        assert (past.moment.retired, third.retired) == (second.retired, second.retired + 4)


def test_a_step_back_over_a_watched_write_tells_it() -> None:
    with TimeMachine(looping(), spacing=SPACING) as past:
        past.go(LI_WORDS + 2)
        past.set_watch(RAM_BASE + 0x8000, 8)

        _, hit = past.step_back()

        assert hit is not None
        assert (hit.kind, past.moment.retired) == (HitKind.WATCH, LI_WORDS + 1)
        assert past.step()[1] is not None


def test_a_breakpoint_in_an_interrupt_handler_is_found_again_backwards(kv: Recording) -> None:
    """At its position the interrupt is taken first: the state before it stands elsewhere."""
    with TimeMachine(kv, spacing=KV_SPACING) as past:
        handler = interrupt_handler(kv)
        past.set_break(handler)
        met = [past.run_on() for _ in range(5)]
        assert all(arrival == "hit" for arrival, _ in met)

        found = [past.last_hit()[1] for _ in range(3)]

        assert [hit and hit.retired for hit in found] == [hit and hit.retired for _, hit in met[3:0:-1]]
        assert past.register(32) == handler
        after = past.step(), past.moment.retired
        assert after == (("there", None), (found[-1].retired if found[-1] else 0) + 1)
        assert seen(past) == straight(kv, past.moment.retired)


def interrupt_handler(recording: Recording) -> int:
    machine = Machine(recording.shape)
    recording.restore(machine)
    hooks = Hooks(machine)
    with hooks.counting(jumps_max=1 << 20) as counting:
        hooks.replay(InputLog(recording.inputs), 0, until=recording.end.retired)
        jumps, _ = counting.take_jumps()
    return next(jump.target for jump in jumps if jump.kind.name == "INTERRUPT")


def test_a_long_way_can_be_interrupted(past: TimeMachine) -> None:
    past.interrupted = lambda: past.moment.retired > 200_000

    assert past.run_on() == ("interrupted", None)
    assert 200_000 < past.moment.retired < past.end


# --- what does not fit ---


def test_a_recording_that_says_more_than_the_machine_did_is_refused() -> None:
    kept = looping()
    ended = Recording(
        shape=kept.shape, state=kept.state, pages={}, inputs=(), end=type(kept.end)(kept.end.retired + 10**6, 0)
    )

    with TimeMachine(ended) as past, pytest.raises(GuestError, match="does not belong to this state"):
        past.go(past.end)


def test_a_spacing_of_nothing_is_refused(kv: Recording) -> None:
    with pytest.raises(ConfigError, match="at least one instruction apart"):
        TimeMachine(kv, spacing=0)


def test_memory_outside_of_ram_is_not_read(past: TimeMachine) -> None:
    assert past.read(RAM_BASE - 1, 2) is None
    assert past.read(RAM_BASE + past.shape.ram_bytes - 1, 2) is None
    assert past.read(RAM_BASE, -1) is None


def test_positions_rise_with_moments(past: TimeMachine) -> None:
    past.go(0)
    places = []
    for target in range(0, past.end, past.end // 20):
        past.go(target)
        places.append((past.moment, past.position.retired, past.position.idled))

    assert all(a < b for a, b in pairwise(places))
