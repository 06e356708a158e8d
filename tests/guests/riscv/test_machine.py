import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ConfigError, GuestError, ImageError, LocalProtocolError
from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, TICKS_PER_MTIME, Machine, MachineShape, Position, StopReason

from .assembly import (
    CLINT,
    EBREAK,
    ECALL,
    LI_WORDS,
    MCAUSE,
    MEPC,
    MIE,
    MINSTRET,
    MRET,
    MSTATUS,
    MTVAL,
    MTVEC,
    SMALL,
    TIME,
    UART,
    WFI,
    addi,
    booted,
    changed_pages,
    csrrs,
    csrrw,
    elf,
    finish,
    jal,
    jalr,
    li,
    load,
    run_to_end,
    store,
    to_bytes,
)

cached_or_not = pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "plain"])


# --- running ---


@cached_or_not
@given(instructions=st.integers(0, 100_000))
@settings(max_examples=25)
def test_a_run_goes_exactly_as_far_as_asked(is_cached: bool, instructions: int) -> None:
    machine = booted([addi(1, 1, 1), jal(0, -4)])

    stop = machine.run(instructions, is_cached=is_cached)

    assert stop is StopReason.LIMIT
    assert machine.position == Position(instructions, 0)
    assert machine.register(1) == (instructions + 1) // 2


@pytest.mark.parametrize("code", [0, 1, 7, 65535])
def test_the_finisher_ends_the_machine_with_its_code(code: int) -> None:
    machine = booted(finish(code))

    run_to_end(machine)

    assert machine.exit_code == code
    assert machine.run(10) is StopReason.FINISHED


def test_a_word_to_tohost_ends_the_machine_as_the_riscv_tests_expect() -> None:
    tohost = RAM_BASE + 0x2000
    machine = booted([*li(1, tohost), addi(2, 0, 5 << 1 | 1), store(2, 1)], tohost=tohost)

    run_to_end(machine)

    assert machine.exit_code == 5


def test_a_store_beside_tohost_ends_nothing() -> None:
    tohost = RAM_BASE + 0x2000
    machine = booted([*li(1, tohost), addi(2, 0, 1), store(2, 1, 8), jal(0, 0)], tohost=tohost)

    assert machine.run(1000) is StopReason.LIMIT


def test_the_program_finds_the_hart_number_and_the_device_tree_in_its_first_arguments() -> None:
    machine = booted([0x13])

    tree_at = machine.register(11) - RAM_BASE

    assert machine.register(10) == 0
    assert bytes(machine.ram.buffer[tree_at : tree_at + 4]) == b"\xd0\x0d\xfe\xed"


def test_a_stop_from_outside_ends_a_run_that_would_not_end() -> None:
    machine = booted([jal(0, 0)])
    machine.stop()

    assert machine.run(1 << 60) is StopReason.STOPPED
    assert machine.run(5) is StopReason.LIMIT


# --- traps ---

HANDLER = 0x800


def trapping(words: list[int], *, from_user: bool = False) -> Machine:
    """Run instructions with a handler that ends the machine; in user mode if asked. Returns it behind the trap."""
    enter = [*li(5, RAM_BASE + HANDLER), csrrw(0, MTVEC, 5)]
    if from_user:
        enter += [*li(7, -1), csrrw(0, 0x3B0, 7), addi(7, 0, 0x1F), csrrw(0, 0x3A0, 7)]  # all memory is open to it
        here = 4 * (len(enter) + LI_WORDS + 2)
        enter += [*li(6, RAM_BASE + here), csrrw(0, MEPC, 6), MRET]
    code = enter + words
    code += [0x13] * (HANDLER // 4 - len(code)) + finish(1)
    machine = booted(code)
    run_to_end(machine)
    return machine


@pytest.mark.parametrize(
    ("word", "cause", "value"),
    [
        (0x00000000, 2, 0),
        (0xFFFFFFFF, 2, 0xFFFFFFFF),
        (csrrs(1, 0x5C0), 2, csrrs(1, 0x5C0)),
        (csrrw(0, 0xF11, 1), 2, csrrw(0, 0xF11, 1)),
        (ECALL, 11, 0),
        (load(1, 0), 5, 0),
        (store(1, 0, 8), 7, 8),
        (jalr(0, 0, 4), 1, 4),
    ],
)
def test_an_exception_tells_its_cause_and_value(word: int, cause: int, value: int) -> None:
    machine = trapping([word])

    assert (machine.csr(MCAUSE), machine.csr(MTVAL)) == (cause, value)


def test_a_breakpoint_tells_its_own_address() -> None:
    machine = trapping([EBREAK])

    assert (machine.csr(MCAUSE), machine.csr(MTVAL)) == (3, machine.csr(MEPC))


def test_an_environment_call_from_user_mode_enters_machine_mode() -> None:
    machine = trapping([ECALL], from_user=True)

    assert machine.csr(MCAUSE) == 8
    assert (machine.csr(MSTATUS) or 0) >> 11 & 3 == 0


@pytest.mark.parametrize("word", [csrrs(1, MSTATUS), MRET, csrrs(1, TIME)])
def test_user_mode_may_not_use_what_belongs_to_machine_mode(word: int) -> None:
    machine = trapping([word], from_user=True)

    assert (machine.csr(MCAUSE), machine.csr(MTVAL)) == (2, word)


def test_a_misaligned_atomic_is_refused_and_a_misaligned_load_is_not() -> None:
    amoadd = 0x0020A1AF  # amoadd.w x3, x2, (x1)
    machine = trapping([*li(1, RAM_BASE + 0x2001), load(2, 1), amoadd])

    assert (machine.csr(MCAUSE), machine.csr(MTVAL)) == (6, RAM_BASE + 0x2001)


def test_an_access_that_reaches_over_the_end_of_memory_is_refused() -> None:
    end = RAM_BASE + SMALL.ram_bytes
    machine = trapping([*li(1, end - 4), load(2, 1, size=4), load(2, 1, size=8)])

    assert (machine.csr(MCAUSE), machine.csr(MTVAL)) == (5, end - 4)


@pytest.mark.parametrize(
    ("page", "permissions", "cause"),
    [(3, 0x1F, 11), (3, 0x1B, 11), (5, 0x1B, 5), (5, 0x19, 7)],
    ids=["reads where it may", "writes where it may", "reads elsewhere", "writes elsewhere"],
)
def test_memory_protection_asks_for_each_access_while_not_all_is_open(page: int, permissions: int, cause: int) -> None:
    """Loads and stores of machine mode that borrow user mode's rights (MPRV), with page 3 alone open."""
    address = RAM_BASE + 4096 * page
    access = load(2, 1) if cause != 7 else store(2, 1)
    protect = [*li(8, (RAM_BASE + 0x3000) >> 2 | 0x1FF), csrrw(0, 0x3B0, 8), *li(8, permissions), csrrw(0, 0x3A0, 8)]
    borrow = [*li(9, 1 << 17), csrrs(0, MSTATUS, 9)]

    machine = trapping([*li(1, address), *protect, *borrow, access, ECALL])

    assert machine.csr(MCAUSE) == cause


def test_an_exception_is_begun_but_not_retired() -> None:
    machine = trapping([ECALL])

    begun = machine.position.retired

    assert machine.csr(MINSTRET) == begun - 1


# --- interrupts, time, waiting ---


def timer_program(at_mtime: int) -> list[int]:
    return [
        *li(5, RAM_BASE + HANDLER),
        csrrw(0, MTVEC, 5),
        *li(6, CLINT + 0x4000),
        *li(7, at_mtime),
        store(7, 6),
        *li(8, 1 << 7),
        csrrw(0, MIE, 8),
        addi(9, 0, 8),
        csrrs(0, MSTATUS, 9),
    ]


def with_handler(code: list[int]) -> list[int]:
    return code + [0x13] * (HANDLER // 4 - len(code)) + [csrrs(20, TIME), csrrs(21, MCAUSE), *finish()]


@cached_or_not
def test_the_timer_interrupts_before_exactly_the_instruction_at_which_it_is_due(is_cached: bool) -> None:
    machine = booted(with_handler([*timer_program(100), addi(1, 1, 1), jal(0, -4)]))

    machine.run(100 * TICKS_PER_MTIME, is_cached=is_cached)
    before = machine.register(32)
    machine.run(1, is_cached=is_cached)

    assert before < RAM_BASE + HANDLER
    assert machine.register(32) == RAM_BASE + HANDLER + 4
    assert machine.csr(MCAUSE) == 1 << 63 | 7


def test_a_waiting_hart_says_so_until_enough_time_has_passed() -> None:
    machine = booted(with_handler([*timer_program(1000), WFI, jal(0, -4)]))
    assert machine.run(10_000) is StopReason.IDLE
    left = machine.idle_max()

    assert left == 1000 * TICKS_PER_MTIME - machine.position.retired
    machine.idle(left - 1)
    still_waiting = machine.run(10_000)
    machine.idle(1)
    run_to_end(machine)

    assert still_waiting is StopReason.IDLE
    assert machine.register(20) == 1000
    assert machine.position.idled == left


def test_a_hart_that_waits_for_nothing_could_wait_for_ever() -> None:
    machine = booted([WFI])

    assert machine.run(10) is StopReason.IDLE
    assert machine.idle_max() is None


# --- the console ---


def say(text: bytes) -> list[int]:
    words = li(1, UART)
    for byte in text:
        words += [addi(2, 0, byte), store(2, 1, size=1)]
    return words


def test_the_console_speaks_in_lines_and_ends_with_what_is_left() -> None:
    machine = booted([*say(b"one\ntwo\nrest"), *finish()])

    outputs = run_to_end(machine)

    assert outputs == [("console", b"one\n"), ("console", b"two\n"), ("console", b"rest")]


def test_a_line_without_an_end_is_spoken_when_the_hart_waits() -> None:
    machine = booted([*say(b"name? "), WFI])

    stop = machine.run(1000)

    assert stop is StopReason.IDLE
    assert [output.payload for output in machine.take_outputs()] == [b"name? "]


@cached_or_not
@given(slice_instructions=st.integers(5_000, 400_000))
@settings(max_examples=10)
def test_a_line_without_an_end_is_spoken_after_a_million_instructions(is_cached: bool, slice_instructions: int) -> None:
    machine = booted([*say(b"."), jal(0, 0)])
    spoken_at = machine.position.retired + len(say(b".")) - 1 + 1_000_000

    while not (outputs := machine.take_outputs()):
        machine.run(slice_instructions, stop_at_output=True, is_cached=is_cached)

    assert [output.payload for output in outputs] == [b"."]
    assert machine.position.retired == spoken_at


def test_stopping_at_outputs_stops_right_behind_the_instruction_that_speaks() -> None:
    machine = booted([*say(b"a\nb\n"), *finish()])

    stops = [machine.run(1000, stop_at_output=True)]
    first = machine.position.retired
    machine.take_outputs()
    stops.append(machine.run(1000, stop_at_output=True))

    assert stops == [StopReason.OUTPUT, StopReason.OUTPUT]
    assert first == len(say(b"a\n"))
    assert machine.position.retired == len(say(b"a\nb\n"))


def test_keys_reach_the_program_and_no_more_than_the_fifo_holds() -> None:
    echo = [*li(1, UART), load(2, 1, 0, size=1), store(2, 1, size=1)] + [
        word for _ in range(2) for word in (load(2, 1, 0, size=1), store(2, 1, size=1))
    ]
    machine = booted([*echo, *finish()])

    taken = machine.receive_console(b"abc" + b"." * 20)

    assert taken == 16
    assert run_to_end(machine) == [("console", b"abc")]


# --- state ---


def test_a_fresh_machine_goes_on_where_another_was_saved() -> None:
    words = [*timer_program(1000), *say(b"half a "), WFI, *say(b"line\n"), *finish()]
    original, other = booted(words), Machine(SMALL)
    original.run(len(timer_program(0)) + 20)
    other.ram.buffer[:] = original.ram.buffer

    other.load(original.save())

    assert other.save() == original.save()
    assert run_to_end_idling(other) == run_to_end_idling(original)
    assert other.position == original.position
    assert other.ram.buffer == original.ram.buffer


def run_to_end_idling(machine: Machine) -> list[bytes]:
    outputs: list[bytes] = []
    for _ in range(100):
        stop = machine.run(100_000)
        outputs += [output.payload for output in machine.take_outputs()]
        if stop is not StopReason.IDLE:
            break
        machine.idle(machine.idle_max() or 1)
    return outputs


def test_state_is_small_and_refused_while_outputs_wait() -> None:
    machine = booted([*say(b"x\n"), jal(0, 0)])
    machine.run(1000)

    with pytest.raises(LocalProtocolError, match="outputs taken"):
        machine.save()

    machine.take_outputs()
    assert len(machine.save()) < 1024


def test_every_shortened_state_is_refused_and_changes_nothing() -> None:
    machine = booted([addi(1, 1, 1), jal(0, -4)])
    machine.run(7)
    before = machine.save()

    for length in range(len(before)):
        with pytest.raises(GuestError, match="does not load"):
            machine.load(before[:length])

    with pytest.raises(GuestError, match="too long"):
        machine.load(before + b"\0")
    assert machine.save() == before


def test_the_state_of_another_machine_is_refused() -> None:
    with_net = Machine(MachineShape(ram_bytes=1 << 20, mac=bytes(6)))
    larger = Machine(MachineShape(ram_bytes=2 << 20))
    state = Machine(SMALL).save()

    with pytest.raises(GuestError, match="other devices"):
        with_net.load(state)
    with pytest.raises(GuestError, match="another size of memory"):
        larger.load(state)


@given(st.data())
@settings(max_examples=200)
def test_an_altered_state_either_loads_whole_or_changes_nothing(data: st.DataObject) -> None:
    machine = booted([addi(1, 1, 1), jal(0, -4)], shape=MachineShape(ram_bytes=1 << 20, mac=bytes(6), has_entropy=True))
    machine.run(7)
    before = machine.save()
    altered = bytearray(before)
    for _ in range(data.draw(st.integers(1, 4))):
        altered[data.draw(st.integers(0, len(altered) - 1))] = data.draw(st.integers(0, 255))

    try:
        machine.load(bytes(altered))
    except GuestError:
        assert machine.save() == before
    else:
        assert machine.save() == altered
        machine.run(100)


# --- dirty pages ---


@cached_or_not
@given(st.lists(st.tuples(st.integers(1, 250), st.integers(0, 4095), st.sampled_from([1, 2, 4, 8])), max_size=20))
@settings(max_examples=40)
def test_every_changed_page_is_reported(is_cached: bool, writes: list[tuple[int, int, int]]) -> None:
    words = [addi(2, 0, -1)]
    for page, offset, size in writes:
        words += [*li(1, RAM_BASE + page * 4096 + offset), store(2, 1, size=size)]
    machine = booted([*words, *finish()])
    machine.ram.take_dirty()
    before = bytes(machine.ram.buffer)

    machine.run(100_000, is_cached=is_cached)

    reported = int.from_bytes(machine.ram.take_dirty(), "little")
    after = bytes(machine.ram.buffer)
    changed = changed_pages(before, after)
    assert changed == {page for page in range(256) if reported >> page & 1}


def test_loading_a_program_marks_its_pages() -> None:
    machine = booted([0x13])

    words = int.from_bytes(machine.ram.take_dirty(), "little")

    assert words & 1
    assert words.bit_count() == 2  # the program and the device tree


@pytest.mark.parametrize(
    ("ram_pages", "program_bytes", "command_line"),
    [(1, 4, ""), (2, 4097, ""), (2, 4, "x" * 8192), (3, 4097, "x" * 4096)],
    ids=["one page", "long program", "longer than memory", "long arguments"],
)
def test_a_device_tree_never_overwrites_the_program(ram_pages: int, program_bytes: int, command_line: str) -> None:
    machine = Machine(MachineShape(ram_bytes=ram_pages * 4096))
    program = parse_elf(elf(bytes(program_bytes)), ram_base=RAM_BASE, ram_bytes=machine.shape.ram_bytes)

    with pytest.raises(ImageError, match="give the machine more memory"):
        machine.boot(program, command_line=command_line)

    assert not any(machine.ram.buffer)


@pytest.mark.parametrize("command_line", ["records=1\0", "records=1\n", "\udcff"])
def test_boot_arguments_that_are_no_text_are_refused(command_line: str) -> None:
    machine = Machine(SMALL)
    program = parse_elf(elf(to_bytes(finish())), ram_base=RAM_BASE, ram_bytes=SMALL.ram_bytes)

    with pytest.raises(ConfigError, match="boot arguments must be printable text"):
        machine.boot(program, command_line=command_line)


# --- shapes ---


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ram_bytes": 4097}, "multiple of 4096"),
        ({"ram_bytes": 0}, "multiple of 4096"),
        ({"mac": b"\1\0\0\0\0\0"}, "the first one even"),
        ({"mac": b""}, "6 bytes"),
        ({"disk_bytes": 512}, "multiple of 4096"),
        ({"disk_bytes": -4096}, "multiple of 4096"),
        ({"disk_bytes": (64 << 30) + 4096}, "at most 64 GiB"),
    ],
)
def test_an_impossible_shape_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        MachineShape(**fields)  # type: ignore[arg-type]


def test_a_machine_whose_disk_behaves_otherwise_than_in_the_release_before_has_another_name() -> None:
    assert str(MachineShape(ram_bytes=4096)) == "riscv/1 ram=4KiB net=none disk=0KiB entropy=no"
    assert str(MachineShape(ram_bytes=4096, disk_bytes=8192)) == "riscv/2 ram=4KiB net=none disk=8KiB entropy=no"


def test_reading_an_unused_word_of_the_map_is_an_access_fault_and_an_empty_slot_says_so() -> None:
    machine = booted([*li(1, 0x10008000), load(2, 1, 0, size=4), load(3, 1, 8, size=4), *finish()])

    run_to_end(machine)

    assert (machine.register(2), machine.register(3)) == (0x74726976, 0)
