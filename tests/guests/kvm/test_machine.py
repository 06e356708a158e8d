"""The C core under KVM: whatever a guest did, its state goes over; bytes load whole or not at all."""

import select
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.errors import ConfigError, GuestError, ImageError
from ftvm.guests.kvm.machine import Ending, KvmEndedBy, KvmMachine, KvmShape, News

from .code import DEVICES, END, SPIN, START, UART, WAIT, State, jump, out, program, store

MakeMachine = Callable[[], KvmMachine]
SHAPE = KvmShape(ram_bytes=2 << 20, mac=b"\x52\x54\0\0\0\1", disk_bytes=8192, has_entropy=True)

ports = st.builds(
    out,
    st.sampled_from([*range(UART, UART + 8), WAIT, WAIT + 4 * 2, 0, 0xFFFF]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 4]),
)
registers = st.sampled_from([0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x90, 0xA0, 0x100, 0xFFF])
values = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 8, 15, 64, 256, START]))
accesses = st.builds(
    lambda slot, register, value, size: store(DEVICES + slot * 0x1000 + register, value, size),
    st.integers(0, 8),
    registers,
    values,
    st.sampled_from([1, 2, 4, 4, 4, 8]),
)
brief_waits = st.builds(lambda microseconds: out(WAIT, microseconds, 4), st.integers(1, 50))
courses = st.lists(st.one_of(accesses, ports, brief_waits), max_size=40).map(b"".join)


def run(machine: KvmMachine, moments: int = 1) -> None:
    """Let it run for a moment."""
    machine.leave()  # nobody attends: its outputs stay where they are
    machine.resume()
    select.select((), (), (), 0.002 * moments)
    machine.pause()
    machine.take_outputs()


def refusal(machine: KvmMachine, state: bytes) -> str | None:
    try:
        machine.load(state)
    except GuestError as refused:
        return str(refused)
    return None


def run_to_end(machine: KvmMachine) -> Ending:
    machine.resume()
    news = machine.wait_for_news()
    while not news & News.ENDED:
        machine.take_outputs()
        news = machine.wait_for_news()
    machine.take_outputs()
    machine.leave()
    machine.pause()
    return machine.ending


@given(courses)
@settings(max_examples=40)
def test_whatever_a_guest_did_to_its_devices_what_save_writes_load_takes(course: bytes) -> None:
    machine, other = KvmMachine(SHAPE), KvmMachine(SHAPE)
    try:
        machine.boot(program(course + SPIN))

        run(machine)
        state = machine.save()
        other.load(state)

        assert machine.save() == state
        assert other.save() == state
    finally:
        machine.close()
        other.close()


@given(st.binary(max_size=64))
@settings(max_examples=40)
def test_whatever_a_guest_executes_it_can_be_paused_saved_and_told(code: bytes) -> None:
    machine, other = KvmMachine(SHAPE), KvmMachine(SHAPE)
    try:
        machine.boot(program(code + SPIN))

        run(machine)
        other.load(machine.save())

        assert str(machine.ending)
    finally:
        machine.close()
        other.close()


def test_bytes_that_are_changed_load_whole_or_not_at_all(make_machine: MakeMachine) -> None:
    machine = make_machine()
    machine.boot(program(out(UART, 65, 1) + SPIN))
    run(machine)
    good = machine.save()

    @given(st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255)), min_size=1, max_size=4))
    @settings(max_examples=200)
    def load_changed(changes: list[tuple[int, int]]) -> None:
        bad = bytearray(good)
        for at, flip in changes:
            bad[at] ^= flip

        if refusal(machine, bytes(bad)) is not None:
            assert machine.save() == good
        machine.load(good)
        assert machine.save() == good

    load_changed()


@given(st.binary(max_size=9000))
@settings(max_examples=30)
def test_noise_is_refused_and_changes_nothing(noise: bytes) -> None:
    machine = KvmMachine(SHAPE)
    try:
        before = machine.save()

        for bad in (noise, before[: len(noise)], before + noise + b"\0", before[:200] + noise):
            with pytest.raises(GuestError, match="does not load"):
                machine.load(bad)

        assert machine.save() == before
    finally:
        machine.close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda head: (head[0] + 1, *head[1:]), "not the state of a KVM machine"),
        (lambda head: (head[0], 99, *head[2:]), "another version"),
        (lambda head: (*head[:2], 0, *head[3:]), "other devices"),
        (lambda head: (*head[:3], 4096, *head[4:]), "another size of memory"),
        (lambda head: (*head[:5], b"GenuineIntel-6-1-1/0", head[6]), "another processor than this host's"),
        (lambda head: (*head[:6], head[6] * 2), "time stamp counter has another frequency"),
    ],
)
def test_the_state_of_an_unlike_host_is_refused_with_the_reason(
    make_machine: MakeMachine,
    change: Callable[[tuple[int | bytes, ...]], tuple[int | bytes, ...]],
    reason: str,
) -> None:
    machine = make_machine()
    state = State.parse(machine.save())

    with pytest.raises(GuestError, match=reason):
        machine.load(replace(state, head=change(state.head)).build())


def test_a_register_that_this_host_lacks_is_refused_with_the_reason(make_machine: MakeMachine) -> None:
    machine = make_machine()
    state = State.parse(machine.save())
    registers = {**state.registers, 0xC0010FFF: 0}

    with pytest.raises(GuestError, match="other model-specific registers than KVM knows"):
        machine.load(replace(state, registers=registers).build())


def test_a_time_stamp_counter_that_would_go_back_is_refused(make_machine: MakeMachine) -> None:
    machine = make_machine()
    state = State.parse(machine.save())
    clock_ns, ticks, wall_ns = state.times
    future = replace(state, times=(clock_ns, ticks + 2**60, wall_ns)).build()
    before = machine.save()

    if (refused := refusal(machine, future)) is not None:
        assert "time stamp counter: it would go back" in refused
        assert machine.save() == before
    else:
        assert machine.clocks()[1] >= ticks + 2**60  # KVM here sets it


@pytest.mark.parametrize(
    ("code", "by", "told"),
    [
        (b"\x0f\x0b", KvmEndedBy.SHUTDOWN, "triple fault at 0x100000"),
        (b"\xf4", KvmEndedBy.SHUTDOWN, "triple fault"),
        (out(END, 0, 4), KvmEndedBy.PROGRAM, "the program ended with code 0"),
        (out(END, 7, 4), KvmEndedBy.PROGRAM, "the program ended with code 7"),
    ],
    ids=["no such instruction", "halt", "end", "failure"],
)
def test_a_guest_that_ends_says_how(make_machine: MakeMachine, code: bytes, by: KvmEndedBy, told: str) -> None:
    machine = make_machine()
    machine.boot(program(code))

    ending = run_to_end(machine)

    assert ending.by is by
    assert told in str(ending)


def test_a_guest_that_executes_device_memory_ends_and_says_where(make_machine: MakeMachine) -> None:
    machine = make_machine()
    machine.boot(program(jump(DEVICES)))

    ending = run_to_end(machine)

    assert ending.by in (KvmEndedBy.INTERNAL, KvmEndedBy.SHUTDOWN)
    assert f"{DEVICES:#x}" in str(ending)


def test_vector_and_general_registers_go_over(make_machine: MakeMachine) -> None:
    machine, other = make_machine(), make_machine()
    flag, place, value = START + 0x1000, START + 0x2000, 0x1122334455667788
    # movq xmm7, rax; mov rbx, rax; until [flag]: spin; [place] = xmm7, [place + 8] = rbx
    code = b"\x48\xb8" + value.to_bytes(8, "little") + b"\x66\x48\x0f\x6e\xf8\x48\x89\xc3"
    code += b"\x80\x3c\x25" + flag.to_bytes(4, "little") + b"\0\x74\xf6"
    code += b"\x66\x0f\xd6\x3c\x25" + place.to_bytes(4, "little")
    code += b"\x48\x89\x1c\x25" + (place + 8).to_bytes(4, "little")
    machine.boot(program(code + out(END, 0, 4)))
    run(machine, moments=5)

    other.ram.buffer[:] = machine.ram.buffer
    other.load(machine.save())
    other.ram.buffer[flag] = 1

    assert run_to_end(other).by is KvmEndedBy.PROGRAM
    assert bytes(other.ram.buffer[place : place + 16]) == 2 * value.to_bytes(8, "little")


def test_model_specific_registers_go_over(make_machine: MakeMachine) -> None:
    machine, kernel_gs_base = make_machine(), 0xC0000102
    state = State.parse(machine.save()).with_register(kernel_gs_base, 0x123456789000)

    machine.load(state.build())

    assert State.parse(machine.save()).registers == state.registers


def test_the_guests_clock_goes_on_from_where_the_state_has_it(make_machine: MakeMachine) -> None:
    machine = make_machine()
    state = State.parse(machine.save())
    clock_ns, ticks, wall_ns = state.times
    day_ns = 86_400 * 10**9

    machine.load(replace(state, times=(clock_ns + day_ns, ticks, wall_ns)).build())

    assert clock_ns + day_ns <= machine.clocks()[0] < clock_ns + 2 * day_ns


def test_an_ended_program_stays_ended_on_the_other_host(make_machine: MakeMachine) -> None:
    machine, other = make_machine(), make_machine()
    machine.boot(program(out(END, 7, 4)))
    run_to_end(machine)

    other.load(machine.save())

    assert str(other.ending) == "the program ended with code 7"


def test_an_unfinished_line_of_a_program_that_computes_is_told(make_machine: MakeMachine) -> None:
    machine = make_machine()
    machine.boot(program(out(UART, ord("?"), 1) + SPIN))

    machine.resume()
    news = machine.wait_for_news()

    assert news is News.OUTPUTS
    assert [output.payload for output in machine.take_outputs()] == [b"?"]


def test_a_program_that_waits_with_a_limit_wakes_by_itself(make_machine: MakeMachine) -> None:
    machine = make_machine()
    machine.boot(program(out(WAIT, 1000, 4) + out(END, 5, 4)))

    assert run_to_end(machine).detail == 5


def test_a_wait_goes_on_where_the_state_is_loaded(make_machine: MakeMachine) -> None:
    machine, other = make_machine(), make_machine()
    machine.boot(program(out(WAIT, 0, 4) + out(END, 5, 4)))
    run(machine, moments=10)
    other.ram.buffer[:] = machine.ram.buffer

    other.load(machine.save())
    run(other, moments=10)

    assert other.ending.by is KvmEndedBy.NOBODY


def test_a_read_that_a_pause_comes_upon_is_finished_before_the_state_is_saved(make_machine: MakeMachine) -> None:
    keys, room = bytes(range(1, 17)), START + 0x1000
    # mov edi, room; mov ecx, 16; mov edx, UART; next: in al, dx; stosb; loop next; spin
    code = b"\xbf" + room.to_bytes(4, "little") + b"\xb9\x10\0\0\0\xba" + UART.to_bytes(4, "little")
    code += b"\xec\xaa\xe2\xfc" + SPIN
    came_upon = 0
    for trial in range(100):
        machine, other = make_machine(), make_machine()
        machine.boot(program(code))
        machine.receive_console(keys)
        machine.leave()
        machine.resume()
        select.select((), (), (), trial * 0.00002)
        machine.pause()
        came_upon += machine.ram.buffer[room] > 0 and not machine.ram.buffer[room + 15]

        other.ram.buffer[:] = machine.ram.buffer
        other.load(machine.save())
        if machine.ram.buffer[room]:  # before that the keys still wait in line, which is no state
            for each in (machine, other):
                for _ in range(200):
                    if not each.ram.buffer[room + 15]:
                        run(each)
                assert bytes(each.ram.buffer[room : room + 16]) == keys
        machine.close()
        other.close()
        if came_upon == 10:  # on a busy machine most come before the program runs, or behind it
            break


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("/nonexistent/kvm", r"no KVM here: /nonexistent/kvm cannot be opened .*kvm_intel or kvm_amd"),
        ("/dev/null", "/dev/null is not the KVM that ftvm knows"),
    ],
)
def test_where_there_is_no_kvm_it_says_what_to_do(device: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        KvmMachine(SHAPE, device=device)


@pytest.mark.parametrize("ram_bytes", [0, 4095, (3 << 30) + 4096, -4096])
def test_a_memory_that_the_machine_cannot_have_is_refused(ram_bytes: int) -> None:
    with pytest.raises(ConfigError, match="at most 3 GiB"):
        KvmShape(ram_bytes=ram_bytes)


def test_a_program_over_the_page_tables_is_refused(make_machine: MakeMachine) -> None:
    machine = make_machine()
    segments = tuple(replace(segment, address=0x2000) for segment in program(SPIN).segments)

    with pytest.raises(ImageError, match="below 0x100000 lie the page tables"):
        machine.boot(replace(program(SPIN), segments=segments))


def test_a_machine_that_is_booted_again_is_saved_as_it_was_booted(make_machine: MakeMachine) -> None:
    machine = make_machine()
    machine.boot(program(SPIN))
    first = State.parse(machine.save())
    run(machine)

    machine.boot(program(SPIN))

    assert State.parse(machine.save()).middle == first.middle


def test_a_machine_that_ended_after_a_pause_is_saved_where_it_ended(make_machine: MakeMachine) -> None:
    machine, other = make_machine(), make_machine()
    machine.boot(program(out(WAIT, 100_000, 4) + out(END, 7, 4) + SPIN))
    run(machine)

    ending = run_to_end(machine)
    other.load(machine.save())

    assert ending.detail == 7
    assert other.ending == ending
