"""The machine's thread in the C core: what a turn takes along, what it leaves, and that its rows tell all of it."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ftvm
from ftvm.checkpoint import LogKind, LogRecord, Output
from ftvm.errors import ConfigError
from ftvm.guests.riscv import RiscvGuest
from ftvm.guests.riscv.machine import FRAME_BYTES_MAX, Machine
from ftvm.guests.riscv.turn import CLOCK, CLOSED, ENDED, ENTROPY, INPUT, OUTPUT, Row, Turn
from ftvm.logtable import LogTable

from .assembly import (
    UART,
    WFI,
    addi,
    bne,
    elf,
    finish,
    jal,
    li,
    store,
    to_bytes,
)
from .stable import MEMORY, PATIENCE_S, WHO_HAS_KV, Sink, wait_for_end
from .turned import DRAW, REQUESTS, TICKS, in_thread, made, outputs_of, shipped, thirsty

BEAT = {"command_line": "ms=1 beats=0"}


def rows_until(turn: Turn, count: int) -> list[Row]:
    """Go on until so many outputs have come."""
    rows: list[Row] = []
    while sum(row.kind == OUTPUT for row in rows) < count:
        assert turn.go() not in (CLOSED, ENDED)
        rows += turn.rows()
    return rows


def replayed(machine: Machine, rows: list[Row]) -> list[tuple[str, bytes]]:
    """Lead a machine along rows; return the outputs that it makes at the places where they stand."""
    said: list[tuple[str, bytes]] = []
    for row in rows:
        while (left := row.position.retired - machine.position.retired) > 0:
            machine.run(left, stop_at_output=True)
            said += [(output.channel, output.payload) for output in machine.take_outputs()]
        assert (machine.position.retired, machine.position.idled) == (row.position.retired, row.position.idled)
        if row.kind == CLOCK:
            machine.idle(row.ticks)
        elif row.kind == INPUT and row.channel == "net0":
            assert machine.receive_frame(row.payload)
        elif row.kind == INPUT and row.channel == "console":
            assert machine.receive_console(row.payload) == len(row.payload)
        elif row.kind == INPUT:
            assert machine.receive_entropy(row.payload) == len(row.payload)
    return said


def test_an_input_comes_with_the_output_that_it_leads_to_in_one_turn() -> None:
    turn = Turn(shipped("kv"), ticks_per_second=TICKS)
    turn.resume()
    rows_until(turn, 2)
    turn.deliver("net0", WHO_HAS_KV)

    rows = rows_until(turn, 1)

    kinds = [row.kind for row in rows]
    assert kinds[-2:] == [INPUT, OUTPUT]
    assert kinds.count(INPUT) == kinds.count(OUTPUT) == 1
    assert rows[-2].payload == WHO_HAS_KV
    assert rows[-2].position < rows[-1].position


def test_outputs_that_are_made_until_the_hart_waits_come_in_one_turn() -> None:
    speaks_thrice = [*li(1, UART), addi(2, 0, ord("\n")), *[store(2, 1, size=1)] * 3, WFI, jal(0, -4)]
    turn = Turn(made(elf(to_bytes(speaks_thrice))), ticks_per_second=TICKS)
    was_idle = turn.is_idle
    turn.resume()

    turn.go()

    positions = [row.position.retired for row in turn.rows() if row.kind == OUTPUT]
    assert len(positions) == 3
    assert positions == list(range(positions[0], positions[0] + 3)), "each where it was made"
    assert (was_idle, turn.is_idle) == (False, True)


@pytest.mark.parametrize("gap", [1, 3000])
def test_a_machine_that_speaks_without_end_is_listened_to_meanwhile(gap: int) -> None:
    counts_then_speaks = [*li(1, UART), addi(2, 0, ord("\n")), store(2, 1, size=1), *li(3, gap)]
    counts_then_speaks += [addi(3, 3, -1), bne(3, 0, -4), jal(0, -4 * (3 + len(li(3, gap))))]
    turn = Turn(made(elf(to_bytes(counts_then_speaks))), ticks_per_second=TICKS)
    turn.resume()

    turn.go()

    rows = turn.rows()
    assert 1 < len(rows) <= 64
    assert rows[-1].position.retired - rows[0].position.retired <= 20_000
    assert not turn.is_idle


def test_a_machine_that_an_input_waits_for_is_not_idle() -> None:
    turn = Turn(shipped("kv"), ticks_per_second=TICKS)
    turn.resume()
    rows_until(turn, 2)
    was_idle = turn.is_idle

    turn.deliver("net0", WHO_HAS_KV)

    assert (was_idle, turn.is_idle) == (True, False)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("net0"), st.sampled_from([WHO_HAS_KV, bytes(60), b"\xff" * 1522])),
            st.tuples(st.just("console"), st.binary(min_size=1, max_size=40)),
            st.tuples(st.sampled_from(["pause", "burst"]), st.just(b"")),
        ),
        max_size=30,
    )
)
def test_rows_lead_another_machine_to_the_same_state_however_inputs_come(steps: list[tuple[str, bytes]]) -> None:
    first, second = shipped("kv"), shipped("kv")
    turn = Turn(first, ticks_per_second=TICKS)
    with in_thread(turn) as rows:
        turn.resume()
        for channel, content in steps:
            if channel == "pause":
                turn.pause(waits=True)
                turn.resume()
            elif channel == "burst":
                if turn.deliver_all([("net0", WHO_HAS_KV)] * 5, borrows=True)[1]:
                    rows += turn.rows()
                    turn.give_back()
            else:
                turn.deliver(channel, content)

    said = replayed(second, rows)
    second.run(first.position.retired - second.position.retired)

    assert said == outputs_of(rows)
    assert second.save() == first.save()
    assert bytes(second.ram.buffer) == bytes(first.ram.buffer)


def test_what_was_done_before_a_pause_is_handed_on_before_it_is_over() -> None:
    machine = shipped("ticks", **BEAT)
    turn = Turn(machine, ticks_per_second=TICKS)
    with in_thread(turn) as rows:
        for _ in range(50):
            turn.resume()
            turn.pause(waits=True)
            assert not turn.is_busy
            assert sum(row.ticks for row in rows if row.kind == CLOCK) == machine.position.idled
            threading.Event().wait(0.001)  # the beats come while it waits, and while it is paused


def test_it_pauses_by_itself_behind_an_output_and_the_next_turn_waits_until_it_is_wanted() -> None:
    chatter = elf(to_bytes([*li(1, UART), addi(2, 0, ord("\n")), store(2, 1, size=1), jal(0, -4)]))
    turn = Turn(made(chatter), ticks_per_second=TICKS)
    turn.stop_at_output(True)
    positions = []
    for _ in range(3):
        turn.resume()
        positions += [row.position.retired for row in rows_until(turn, 1)]
        assert turn.is_busy, "until the thread comes back: what it handed on may not be dealt with"

    assert positions == [13, 15, 17]


def test_a_program_that_ends_is_told_once_and_its_last_words_come_with_it() -> None:
    turn = Turn(made(elf(to_bytes([*li(1, UART), store(0, 1, size=1), *finish(3)]))), ticks_per_second=TICKS)
    turn.resume()

    assert turn.go() == ENDED

    assert outputs_of(turn.rows()) == [("console", b"\0")]
    turn.close()
    assert turn.go() == CLOSED


def test_inputs_beyond_what_may_wait_are_dropped_and_the_rest_kept() -> None:
    machine = made(elf(to_bytes([WFI, jal(0, -4)])))
    turn = Turn(machine, ticks_per_second=TICKS)

    assert [turn.deliver("net0", bytes(60)) for _ in range(1_026)].count(True) == 1_024
    assert not turn.deliver("net0", bytes(60))
    assert turn.deliver("console", bytes(65_536))
    assert not turn.deliver("console", b"x")
    assert turn.deliver("console", b"")


def test_inputs_that_come_together_are_taken_as_one_by_one() -> None:
    inputs = [("net0", WHO_HAS_KV), ("disk", b"x"), ("net0", bytes(FRAME_BYTES_MAX + 1)), ("net0", WHO_HAS_KV)]
    together, apart = (Turn(shipped("kv"), ticks_per_second=TICKS) for _ in range(2))

    taken, _ = together.deliver_all(inputs)
    taken_apart = [apart.deliver(channel, content) for channel, content in inputs]

    answers = []
    for turn in (together, apart):
        turn.resume()
        answers.append([row.payload for row in rows_until(turn, 4) if row.kind is OUTPUT])
    assert taken == sum(taken_apart) == 2
    assert answers[0] == answers[1]


def test_of_inputs_that_come_together_those_that_have_no_room_are_dropped() -> None:
    turn = Turn(made(elf(to_bytes([WFI, jal(0, -4)]))), ticks_per_second=TICKS)

    assert turn.deliver_all([("net0", bytes(60))] * 1_030) == (1_024, False)
    assert turn.deliver_all([]) == (0, False)


@pytest.mark.parametrize(
    ("channel", "content"), [("net0", bytes(FRAME_BYTES_MAX + 1)), ("entropy", b"x"), ("disk", b"x")]
)
def test_what_no_machine_takes_is_dropped_at_once(channel: str, content: bytes) -> None:
    assert not Turn(shipped("kv"), ticks_per_second=TICKS).deliver(channel, content)


def test_a_frame_for_a_machine_without_a_card_leaves_no_row() -> None:
    turn = Turn(shipped("ticks", mac=None, command_line="ms=1 beats=0"), ticks_per_second=TICKS)
    turn.deliver("net0", WHO_HAS_KV)
    turn.resume()

    rows = rows_until(turn, 2)

    assert [row for row in rows if row.kind == INPUT] == []


def test_random_bytes_are_asked_for_and_noted_where_they_were_taken() -> None:
    turn = Turn(shipped("entropy", has_entropy=True), ticks_per_second=TICKS)
    turn.resume()
    while turn.go() != ENTROPY:
        turn.rows()
    turn.rows()

    turn.draw(bytes(range(64)))
    turn.go()
    first = turn.rows()[0]

    assert (first.kind, first.channel) == (INPUT, "entropy")
    assert first.payload == bytes(range(64))[: len(first.payload)] != b""


def packed_by_hand(rows: list[Row], log_next: int, output_next: int) -> tuple[list[LogRecord], list[Output]]:
    """Make of rows what a turn makes of them in the C core."""
    records: list[LogRecord] = []
    outputs: list[Output] = []
    for index, (kind, channel, position, ticks, payload) in enumerate(rows, log_next):
        if kind is OUTPUT:
            number = output_next + len(outputs)
            outputs.append(Output(number=number, channel=channel, payload=payload))
            records.append(LogRecord(index=index, kind=kind, position=position, amount=number))
        elif kind is INPUT:
            records.append(LogRecord(index=index, kind=kind, position=position, channel=channel, payload=payload))
        else:
            records.append(LogRecord(index=index, kind=kind, position=position, amount=ticks))
    return records, outputs


@given(
    st.lists(st.lists(st.sampled_from([("net0", WHO_HAS_KV), ("console", b"k"), ("console", b"")]), max_size=9)),
    st.integers(1, 1 << 60),
    st.integers(1, 1 << 60),
)
@settings(deadline=None, max_examples=20)
def test_a_turn_packed_says_what_its_rows_say(
    bursts: list[list[tuple[str, bytes]]], log_next: int, output_next: int
) -> None:
    """Mutants: an output's record has its channel, a step of the clock no ticks, an input a number; channels are
    numbered as the machine does, not as they come."""
    turn = Turn(shipped("kv"), ticks_per_second=TICKS)
    turn.resume()

    for burst in [[], [("net0", WHO_HAS_KV)] * 12, *bursts]:
        turn.deliver_all([*burst, ("net0", WHO_HAS_KV)])
        turn.go()
        rows, (log, outputs) = turn.rows(), turn.packed(log_next, output_next)

        records, said = packed_by_hand(rows, log_next, output_next)
        again = LogTable.of(records)
        assert (list(log), outputs) == (records, said)
        assert (log.record_count, log.channels, log.rows) == (again.record_count, again.channels, again.rows)
        assert log.payloads == again.payloads


def test_random_bytes_are_packed_as_an_input() -> None:
    turn = Turn(shipped("entropy", has_entropy=True), ticks_per_second=TICKS)
    turn.resume()
    while turn.go() != ENTROPY:
        turn.rows()
    turn.rows()

    turn.draw(bytes(range(64)))
    rows, (log, outputs) = turn.rows(), turn.packed(1, 1)

    assert [(row.kind, row.channel) for row in rows] == [(INPUT, "entropy")]
    assert (list(log), outputs) == packed_by_hand(rows, 1, 1)


def test_draws_without_end_at_one_place_are_handed_on_in_portions() -> None:
    machine = thirsty()
    turn = Turn(machine, ticks_per_second=TICKS)
    turn.resume()
    rows: list[Row] = []
    draws = portions = 0
    while draws < REQUESTS or sum(row.kind == INPUT for row in rows) < REQUESTS:
        if turn.go() == ENTROPY:
            turn.draw(DRAW)
            draws += 1
        else:
            portions += 1
            rows += turn.rows()

    assert [row.payload for row in rows if row.kind == INPUT] == [DRAW] * REQUESTS
    assert portions >= 4
    assert machine.entropy_wanted() == 0


def test_a_source_of_randomness_that_has_none_is_not_asked_without_end() -> None:
    asked = threading.Semaphore(0)
    calls: list[int] = []

    def dry(count: int) -> bytes:
        calls.append(count)
        asked.release()
        return b""

    guest, sink = RiscvGuest(ftvm.read_program("entropy"), memory_bytes=MEMORY, entropy=dry), Sink()
    guest.attach(sink)
    guest.resume()
    assert asked.acquire(timeout=PATIENCE_S)
    for _ in range(10):
        guest.pause()
        guest.resume()
    guest.close()

    assert len(calls) <= 1 + 10 + 10, "once when it is wanted, and once each time something disturbs the wait"


def test_the_machines_time_goes_on_while_it_waits_and_each_step_is_noted() -> None:
    machine = shipped("ticks", **BEAT)
    turn = Turn(machine, ticks_per_second=TICKS)
    turn.resume()

    rows = rows_until(turn, 2)

    clock = [row for row in rows if row.kind == CLOCK]
    assert clock
    assert all(0 < row.ticks <= TICKS // 1000 for row in clock), "no wait is longer than the timer allows"
    assert sum(row.ticks for row in clock) == rows[-1].position.idled


def test_a_machine_that_computed_faster_than_its_time_goes_waits_from_then_on() -> None:
    machine = shipped("kv")
    turn = Turn(machine, ticks_per_second=1_000)  # its greeting alone puts it minutes ahead of the clock
    with in_thread(turn) as rows:
        turn.resume()
        for _ in range(PATIENCE_S * 100):
            threading.Event().wait(0.01)
            turn.deliver("net0", WHO_HAS_KV)
            if len([row for row in rows if row.kind == OUTPUT]) > 5:
                break

    assert [row for row in rows if row.kind == CLOCK]


@pytest.mark.parametrize("ticks", [-1, 0, 10**10 + 1, 1 << 70])
def test_time_that_stands_still_or_overflows_is_refused(ticks: int) -> None:
    with pytest.raises(ConfigError, match="instructions_per_second must be 1 to 10000000000, not"):
        RiscvGuest(None, memory_bytes=MEMORY, instructions_per_second=ticks)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sink_that_fails_ends_the_guest_and_keeps_nobody_waiting() -> None:
    class Broken(Sink):
        def emit(self, *_: object) -> None:
            raise RuntimeError("out of order")

    guest = RiscvGuest(ftvm.read_program("hello"), memory_bytes=MEMORY)
    guest.attach(Broken())
    guest.resume()
    wait_for_end(guest)

    guest.pause()

    assert guest.failure() == "its thread ended by RuntimeError: out of order"
    guest.collect_dirty()
    guest.close()


def test_a_guest_that_is_led_makes_its_outputs_where_the_log_says() -> None:
    first, sink = RiscvGuest(ftvm.read_program("kv"), memory_bytes=MEMORY), Sink()
    first.attach(sink)
    first.resume()
    sink.wait_for(2)
    for count in range(3, 40):
        first.deliver("net0", WHO_HAS_KV)
        sink.wait_for(count)
    first.pause()
    second, again = RiscvGuest(ftvm.read_program("kv"), memory_bytes=MEMORY), Sink()
    second.attach(again)

    for record in sink.log:
        second.run_until(record.position)
        second.inject(record)
    second.run_until(first.position)

    assert again.outputs == sink.outputs
    assert second.save_devices() == first.save_devices()
    assert {record.kind for record in sink.log} >= {LogKind.INPUT}
    assert all(isinstance(record, LogRecord) for record in sink.log)
    first.close()
    second.close()
