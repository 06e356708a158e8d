"""Whoever gives inputs to a machine that waits does the turn that they lead to, and its thread the rest."""

import threading

import pytest

from ftvm.guests.riscv.turn import CLOCK, CLOSED, ENTROPY, INPUT, OUTPUT, Row, Turn

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
from .stable import PATIENCE_S, WHO_HAS_KV
from .turned import DRAW, TICKS, in_thread, made, outputs_of, shipped, thirsty, wait_for

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


def test_a_machine_that_is_borrowed_is_nobody_elses_before_it_is_given_back() -> None:
    turn = Turn(shipped("kv"), ticks_per_second=TICKS)
    with in_thread(turn) as handed_on:
        turn.resume()
        first = borrowed(turn, [("net0", WHO_HAS_KV)])

        second = turn.deliver_all([("net0", WHO_HAS_KV)], borrows=True)

        turn.give_back()
        assert first
        (answer,) = outputs_of(first)
        wait_for(lambda: answer in outputs_of(handed_on))
    assert second == (1, False)
    assert outputs_of(handed_on).count(answer) == 1, "its thread does the second turn, once"


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
