"""The machine's thread in the C core: what a turn takes along, what it leaves, and that its rows tell all of it."""

import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ftvm
from ftvm.checkpoint import LogKind, LogRecord, Output
from ftvm.errors import ConfigError
from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv import RiscvGuest
from ftvm.guests.riscv.machine import FRAME_BYTES_MAX, RAM_BASE, Machine, MachineShape
from ftvm.guests.riscv.turn import CLOCK, CLOSED, ENDED, ENTROPY, INPUT, OUTPUT, Row, Turn
from ftvm.logtable import LogTable

from .assembly import (
    CLINT,
    MIE,
    PLIC,
    TIME,
    UART,
    WFI,
    add,
    addi,
    bne,
    csrrs,
    csrrw,
    elf,
    finish,
    jal,
    li,
    load,
    store,
    to_bytes,
)
from .driver import ENTROPY as ENTROPY_CARD
from .driver import NOTIFY, STATUS, WRITE, put, set_up, write_register
from .stable import MEMORY, PATIENCE_S, WHO_HAS_KV, Sink, wait_for_end

MAC = bytes.fromhex("525400123456")
TICKS = 100_000_000
BEAT = {"command_line": "ms=1 beats=0"}


def made(program: bytes, *, mac: bytes | None = MAC, has_entropy: bool = False, command_line: str = "") -> Machine:
    machine = Machine(MachineShape(ram_bytes=MEMORY, mac=mac, has_entropy=has_entropy))
    machine.boot(parse_elf(program, ram_base=RAM_BASE, ram_bytes=MEMORY), command_line=command_line)
    return machine


def shipped(name: str, **options: object) -> Machine:
    return made(ftvm.read_program(name), **options)  # type: ignore[arg-type]


def rows_until(turn: Turn, count: int) -> list[Row]:
    """Go on until so many outputs have come."""
    rows: list[Row] = []
    while sum(row.kind == OUTPUT for row in rows) < count:
        assert turn.go() not in (CLOSED, ENDED)
        rows += turn.rows()
    return rows


@contextmanager
def in_thread(turn: Turn) -> Iterator[list[Row]]:
    """Have a thread stay in the turn and keep its rows; it is paused at the end."""
    rows: list[Row] = []

    def stay() -> None:
        while turn.go() != CLOSED:
            rows.extend(turn.rows())
        rows.extend(turn.rows())

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    try:
        yield rows
    finally:
        turn.pause(waits=False)
        turn.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the machine's thread does not come back"


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


def outputs_of(rows: list[Row]) -> list[tuple[str, bytes]]:
    return [(row.channel, row.payload) for row in rows if row.kind == OUTPUT]


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


# The uart interrupts by the PLIC, which only ends the wait; x1 has the uart's address then, x5 the key.
WAITS_FOR_A_KEY = [
    *li(1, UART),
    *li(5, 1),
    store(5, 1, 1, size=1),
    *li(5, 1 << 10),
    *li(6, PLIC),
    *li(7, PLIC + 0x2000),
    store(5, 7, size=4),
    *li(5, 4),
    store(5, 6, 40, size=4),
    *li(5, 1 << 11),
    csrrw(0, MIE, 5),
    WFI,
    load(5, 1, size=1),
]


# A key sets a timer, behind which it speaks once.
SETS_A_TIMER = elf(
    to_bytes(
        [
            *WAITS_FOR_A_KEY,
            *[csrrs(5, TIME), *li(6, 20_000), add(5, 5, 6), *li(6, CLINT + 0x4000), store(5, 6)],
            *[*li(5, 1 << 7), csrrw(0, MIE, 5), WFI],
            *[*li(5, ord("\n")), store(5, 1, size=1), csrrw(0, MIE, 0), WFI, jal(0, -4)],
        ]
    )
)


def wait_for(is_true: Callable[[], object]) -> None:
    for _ in range(PATIENCE_S * 1000):
        if is_true():
            return
        threading.Event().wait(0.001)
    raise AssertionError("waited in vain")


def until_it_rests(turn: Turn) -> None:
    wait_for(lambda: turn.is_idle)


def borrowed(turn: Turn, inputs: list[tuple[str, bytes]]) -> list[Row] | None:
    """Give inputs and do the turn that they lead to here, if that may be; return its rows, not given back yet."""
    for _ in range(PATIENCE_S * 1000):  # the hart waits a moment before its thread rests
        until_it_rests(turn)
        if turn.deliver_all(inputs, borrows=True)[1]:
            return turn.rows()
    return None


def test_who_gives_inputs_to_a_machine_that_waits_does_the_turn_that_they_lead_to() -> None:
    turn = Turn(shipped("kv"), ticks_per_second=TICKS)
    with in_thread(turn) as handed_on:
        turn.resume()

        rows = borrowed(turn, [("net0", WHO_HAS_KV)] * 3)

        assert rows is not None
        kinds = [row.kind for row in rows if row.kind is not CLOCK]
        assert kinds == [INPUT] * 3 + [OUTPUT] * 3
        assert rows[0].kind is CLOCK, "its time has gone on while it waited"
        turn.give_back()
        turn.deliver("net0", WHO_HAS_KV)
        until_it_rests(turn)
    assert len(outputs_of(handed_on)) >= 2 + 1, "its greeting, and what it was asked behind that"


def test_a_machine_that_may_not_run_or_pauses_itself_is_not_borrowed() -> None:
    turn = Turn(shipped("kv"), ticks_per_second=TICKS)
    with in_thread(turn):
        turn.resume()
        until_it_rests(turn)
        turn.pause(waits=True)
        paused = turn.deliver_all([("net0", WHO_HAS_KV)], borrows=True)
        turn.stop_at_output(True)
        turn.resume()
        wait_for(lambda: not turn.is_busy)  # it has answered, and stopped
        strict = set()
        for _ in range(20):
            turn.resume()
            until_it_rests(turn)
            threading.Event().wait(0.002)
            strict.add(turn.deliver_all([("net0", WHO_HAS_KV)], borrows=True))
            wait_for(lambda: not turn.is_busy)

    assert paused == (1, False)
    assert strict == {(1, False)}


def test_a_pause_is_over_once_a_machine_that_is_borrowed_is_given_back() -> None:
    turn, is_paused = Turn(shipped("kv"), ticks_per_second=TICKS), threading.Event()
    with in_thread(turn):
        turn.resume()
        assert borrowed(turn, [("net0", WHO_HAS_KV)])
        pausing = threading.Thread(target=lambda: (turn.pause(waits=True), is_paused.set()))
        pausing.start()

        was_paused = is_paused.wait(0.05)
        turn.give_back()

        pausing.join()
        assert not was_paused
        assert not turn.is_busy


def test_rows_that_nobody_took_of_a_machine_that_was_borrowed_are_handed_on_by_its_thread() -> None:
    turn = Turn(shipped("kv"), ticks_per_second=TICKS)
    with in_thread(turn) as rows:
        turn.resume()
        until_it_rests(turn)
        while not turn.deliver_all([("console", b"x"), ("net0", WHO_HAS_KV)], borrows=True)[1]:
            until_it_rests(turn)

        told = len(rows)
        turn.give_back()

        wait_for(lambda: outputs_of(rows[told:]))
        assert [row.kind for row in rows[told:] if row.kind is not CLOCK][-2:] == [INPUT, OUTPUT]


def test_a_timer_that_is_set_while_a_machine_is_borrowed_is_waited_for() -> None:
    """Mutant: the thread rests on until the time that held before."""
    turn = Turn(made(SETS_A_TIMER), ticks_per_second=TICKS)
    with in_thread(turn) as rows:
        turn.resume()
        first = borrowed(turn, [("console", b"k")])
        turn.give_back()

        wait_for(lambda: outputs_of(rows))

    assert first is not None
    assert [row.kind for row in first if row.kind is not CLOCK] == [INPUT]
    assert outputs_of(rows) == [("console", b"\n")]


def test_a_machine_whose_timer_has_come_due_is_not_idle_before_it_runs() -> None:
    """Regression: it was, from a pause in which the time came until its thread ran again, and what it wrote then was
    taken for the work of a guest at rest."""
    turn = Turn(made(SETS_A_TIMER), ticks_per_second=TICKS)
    with in_thread(turn) as rows:
        turn.resume()
        assert borrowed(turn, [("console", b"k")])
        was_idle = [turn.is_idle]
        turn.pause(waits=False)
        threading.Event().wait(0.002)  # the timer is due after 0.2 ms

        turn.give_back()
        wait_for(lambda: not turn.is_busy)
        was_idle.append(turn.is_idle)

        turn.resume()
        wait_for(lambda: outputs_of(rows))
        until_it_rests(turn)
    assert was_idle == [True, False]


def rest_for_certain(turn: Turn) -> None:
    """Return once the thread of a machine without a card rests, with nothing to come back for."""
    assert borrowed(turn, [("net0", b"a frame that nobody takes")])
    turn.give_back()


def test_a_program_that_ends_while_it_is_borrowed_is_ended_by_its_thread() -> None:
    """Mutant: whoever gave the input takes its last words, and nobody learns that it has ended."""
    machine = made(elf(to_bytes([*WAITS_FOR_A_KEY, store(5, 1, size=1), *finish(3)])), mac=None)
    turn = Turn(machine, ticks_per_second=TICKS)
    with in_thread(turn) as rows:
        turn.resume()
        rest_for_certain(turn)

        _, is_borrowed = turn.deliver_all([("console", b"k")], borrows=True)

        wait_for(lambda: not turn.is_busy)
    assert not is_borrowed
    assert machine.has_ended
    assert outputs_of(rows) == [("console", b"k")]


def test_inputs_have_a_dry_source_of_randomness_asked_again_whoever_could_do_their_turn() -> None:
    """Regression: whoever gave an input did the turn, and the program waited for random bytes for ever."""
    turn, asked = Turn(shipped("entropy", has_entropy=True), ticks_per_second=TICKS), threading.Semaphore(0)

    def stay() -> None:
        while (why := turn.go()) != CLOSED:
            turn.rows()
            if why == ENTROPY:
                turn.draw(b"")
                asked.release()

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    turn.resume()
    is_asked = [asked.acquire(timeout=PATIENCE_S)]

    while is_asked[-1] and len(is_asked) < 6:
        until_it_rests(turn)
        threading.Event().wait(0.002)  # its thread rests, too
        if turn.deliver_all([("console", b"x")], borrows=True)[1]:
            turn.rows()
            turn.give_back()
        is_asked.append(asked.acquire(timeout=10))

    turn.close()
    thread.join(PATIENCE_S)
    assert is_asked == [True] * 6


def test_a_program_that_wants_random_bytes_in_a_turn_that_was_borrowed_gets_them() -> None:
    """Mutant: whoever borrowed it takes the turn for done, and its thread, which asks for them, rests on."""
    machine = thirsty(WAITS_FOR_A_KEY, mac=None)
    turn, asked = Turn(machine, ticks_per_second=TICKS), threading.Event()

    def stay() -> None:
        while (why := turn.go()) != CLOSED:
            turn.rows()
            if why == ENTROPY:
                asked.set()
                turn.draw(DRAW)

    thread = threading.Thread(target=stay, daemon=True)
    thread.start()
    turn.resume()
    rest_for_certain(turn)

    if turn.deliver_all([("console", b"k")], borrows=True)[1]:
        turn.rows()
        turn.give_back()
    is_asked = asked.wait(10)

    turn.close()
    thread.join(PATIENCE_S)
    assert is_asked


@pytest.mark.parametrize("speaks_first", [False, True])
def test_of_a_long_turn_who_gives_inputs_does_the_beginning(speaks_first: bool) -> None:
    """Mutants: whoever gives an input computes on without end; the thread rests where it was left in the middle."""
    speaks = [*li(5, ord("\n")), store(5, 1, size=1)]
    computes = [*li(3, 1_000_000), addi(3, 3, -1), bne(3, 0, -4)]
    words = [*WAITS_FOR_A_KEY, *(speaks if speaks_first else []), *computes, *speaks, csrrw(0, MIE, 0), WFI, jal(0, -4)]
    machine = made(elf(to_bytes(words)), mac=None)
    turn = Turn(machine, ticks_per_second=TICKS)
    with in_thread(turn) as rows:
        turn.resume()
        borrowed(turn, [("net0", b"a frame that nobody takes: the thread rests, and is not called back")])
        turn.give_back()
        began = machine.position.retired

        _, is_borrowed = turn.deliver_all([("console", b"k")], borrows=True)
        came = machine.position.retired - began
        first = turn.rows() if is_borrowed else []
        if is_borrowed:
            turn.give_back()
        wait_for(lambda: len(outputs_of(first) + outputs_of(rows)) == 1 + speaks_first)

    assert is_borrowed is speaks_first
    if is_borrowed:
        assert came == 65_536
        assert len(outputs_of(first)) == 1
    kinds = [row.kind for row in [*first, *rows]]
    until_it_spoke = kinds[: len(kinds) - kinds[::-1].index(OUTPUT)]
    assert until_it_spoke.count(CLOCK) == 1, "its time has gone on before the key, and not while it computes"


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


REQUESTS = 256
DRAW = bytes(4096)


def thirsty(before: Sequence[int] = (), *, mac: bytes | None = MAC) -> Machine:
    """Return a machine that asks for a megabyte of randomness by one notify, in as many requests as a queue holds."""
    descriptors, available, used, target = (RAM_BASE + at for at in (0x10000, 0x11000, 0x12000, 0x20000))
    words = write_register(ENTROPY_CARD, 0x38, REQUESTS)
    for offset, address in ((0x80, descriptors), (0x90, available), (0xA0, used)):
        words += write_register(ENTROPY_CARD, offset, address) + write_register(ENTROPY_CARD, offset + 4, 0)
    ready = write_register(ENTROPY_CARD, 0x44, 1) + write_register(ENTROPY_CARD, STATUS, 15)
    words = [
        *before,
        *set_up(ENTROPY_CARD, 0),
        *words,
        *ready,
        *write_register(ENTROPY_CARD, NOTIFY, 0),
        WFI,
        jal(0, -4),
    ]
    machine = made(elf(to_bytes(words)), has_entropy=True, mac=mac)
    for number in range(REQUESTS):
        put(machine, descriptors + 16 * number, struct.pack("<QIHH", target, len(DRAW), WRITE, 0))
    put(machine, available, struct.pack(f"<HH{REQUESTS}H", 0, REQUESTS, *range(REQUESTS)))
    return machine


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
