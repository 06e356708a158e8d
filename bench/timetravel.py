"""What time travel costs on the built-in machine: counting, the replay of a log, steps backwards, searches.

python bench/timetravel.py [--json] [--rounds 11] [--millions 110]

The key-value server is recorded once, answering requests. Counting is compared with a replay that counts nothing, in
turn with it; steps and searches with the limit that the design sets; steps back also with QEMU's own, of one program.
"""

import argparse
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

from common import Contender, Row, fastest, report
from machine import build_guest
from reverse import missing, qemu_step_back_seconds

from ftvm._native import ffi, lib
from ftvm.checkpoint import LogKind
from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, StopReason
from ftvm.guests.riscv.programs import read_program
from ftvm.history.hooks import Counting, Hooks, InputLog
from ftvm.history.recording import RecordedMachine, Recording
from ftvm.history.timeline import TimeMachine
from ftvm.lab.kv import KV_PORT, Operation, Request
from ftvm.lab.packets import ARP_REQUEST, BROADCAST, PROTOCOL_UDP, Arp, EtherType, Frame, Ipv4, Udp
from ftvm.units import PAGE_BYTES

MAC, CLIENT_MAC = bytes.fromhex("525400123456"), bytes.fromhex("020000000001")
GUEST, CLIENT = IPv4Address("10.77.0.2"), IPv4Address("10.77.0.9")
SHAPE = MachineShape(ram_bytes=16 << 20, mac=MAC)
STEP = 65_536
JUMPS_MAX = 2 * STEP
WAIT_TICKS = 5_000
LOOP_ROUNDS = 6_000_000
"""Of guest_loop.c: about a hundred million instructions."""


def record(instructions: int) -> Recording:
    """Record the key-value server answering requests, each after a wait."""
    machine = RecordedMachine(SHAPE)
    machine.boot(parse_elf(read_program("kv"), ram_base=RAM_BASE, ram_bytes=SHAPE.ram_bytes))
    machine.begin()
    frames = requests()
    while machine.position.retired < instructions:
        if machine.run(instructions - machine.position.retired) is StopReason.IDLE:
            machine.idle(min(WAIT_TICKS, machine.idle_max() or WAIT_TICKS))
            machine.receive_frame(next(frames))
        machine.take_outputs()
    return machine.recording()


def requests() -> Iterator[bytes]:
    """Yield frames for the server: who the client is, then reads and writes of 300 keys, with values of any length."""
    question = Arp(operation=ARP_REQUEST, sender_mac=CLIENT_MAC, sender_ip=CLIENT, target_mac=bytes(6), target_ip=GUEST)
    yield Frame(destination=BROADCAST, source=CLIENT_MAC, ethertype=EtherType.ARP, payload=question.encode()).encode()
    rng = random.Random(1)
    for number in itertools.count(1):
        is_put = rng.random() < 0.5
        request = Request(
            operation=Operation.PUT if is_put else Operation.GET,
            client=rng.randrange(16),
            number=number,
            key=b"key%d" % rng.randrange(300),
            value=rng.randbytes(rng.randrange(1, 200)) if is_put else b"",
        )
        datagram = Udp(source_port=5000, destination_port=KV_PORT, payload=request.encode()).encode(CLIENT, GUEST)
        packet = Ipv4(source=CLIENT, destination=GUEST, protocol=PROTOCOL_UDP, payload=datagram).encode()
        yield Frame(destination=MAC, source=CLIENT_MAC, ethertype=EtherType.IPV4, payload=packet).encode()


def contender(past: Recording, log: InputLog, jumps_max: int | None, *, marks: bool = False) -> Contender:
    """Return what brings a machine to the begin, and what leads it to the end: counting, marking, or neither.

    A trace is thrown away each so many instructions that its room always suffices.
    """
    machine = Machine(past.shape)
    hooks, lost = Hooks(machine), ffi.new("size_t *")
    if jumps_max is not None:
        machine.kept["bench"] = Counting(machine, jumps_max, lost)
    if marks:
        hooks.mark_writes()
    step = STEP if jumps_max else past.end.retired

    def begin() -> None:
        machine.ram.buffer[:] = bytes(len(machine.ram.buffer))
        past.restore(machine)

    def run() -> None:
        taken = 0
        for until in range(step, past.end.retired + step, step):
            _, taken = hooks.replay(log, taken, until=min(until, past.end.retired))
            lib.ftvm_debug_jumps(machine.native, lost)

    return begin, run


def by_python(past: Recording) -> Contender:
    """The same by a call for each run, input and wait, as a guest was led before."""
    machine = Machine(past.shape)

    def begin() -> None:
        machine.ram.buffer[:] = bytes(len(machine.ram.buffer))
        past.restore(machine)

    def run() -> None:
        for record in past.inputs:
            machine.run(record.position.retired - machine.position.retired)
            machine.take_outputs()
            if record.kind is LogKind.CLOCK:
                machine.idle(record.amount)
            else:
                machine.receive_frame(record.payload)
        machine.run(past.end.retired - machine.position.retired)
        machine.take_outputs()

    return begin, run


def hooks_rows(past: Recording, rounds: int) -> list[Row]:
    log = InputLog(past.inputs)
    contenders: dict[str, Contender] = {
        "replay in C": contender(past, log, None),
        "replay by Python": by_python(past),
        "marking what is written": contender(past, log, None, marks=True),
        "counting": contender(past, log, 0),
        "counting and tracing": contender(past, log, JUMPS_MAX),
    }
    seconds = fastest(contenders, rounds)
    speed = {name: past.end.retired / second / 1e6 for name, second in seconds.items()}
    rows = (
        ("replay in C", "replay by Python", None),
        ("marking what is written", "replay in C", None),
        ("counting", "replay in C", "<= 1.1"),
        ("counting and tracing", "replay in C", "<= 1.15"),
    )
    return [
        Row(
            name=name, value=1e3 * seconds[name], unit="ms", peer=peer, peer_value=1e3 * seconds[peer], goal=goal,
            note=f"{speed[name]:.0f} M instructions/s",
        )
        for name, peer, goal in rows
    ]  # fmt: skip


def timed(action: Callable[[], object]) -> float:
    started = time.thread_time()
    action()
    return 1e3 * (time.thread_time() - started)


def stack_top(machine: TimeMachine) -> int:
    """Return where the last word of the stack's first page is: written as the program began, and never since."""
    return (machine.register(2) | PAGE_BYTES - 1) - 7


def travel_rows(past: Recording, rounds: int) -> list[Row]:
    first, following, seeks, writes, old_writes = [], [], [], [], []
    with TimeMachine(past) as machine:
        machine.go(machine.end)
        for number in range(rounds):
            machine.go(machine.end - number * 1_777_777)
            first.append(timed(machine.step_back))
            following += [timed(machine.step_back) for _ in range(20)]
            target = machine.end * (number + 1) // (rounds + 1)
            seeks.append(timed(lambda target=target: machine.go(target)))
        for _ in range(rounds):
            machine.go(machine.end)
            writes.append(timed(lambda: machine.last_write(machine.register(2) + 64, 8)))
            machine.go(machine.end)
            old_writes.append(timed(lambda: machine.last_write(stack_top(machine), 8)))
        back = past.end.retired - machine.moment.retired
    median = statistics.median
    goal = "the design's goal"
    return [
        Row(name="first step back", value=median(first), unit="ms", peer=goal, peer_value=10, goal="<= 1"),
        Row(name="next step back", value=median(following), unit="ms", peer=goal, peer_value=0.5, goal="<= 1"),
        Row(name="go to any instruction", value=median(seeks), unit="ms", peer="", note="by states 1 M apart"),
        Row(
            name=f"last write, of {past.end.retired // 1_000_000} M instructions", value=median(writes), unit="ms",
            peer=goal, peer_value=30, goal="<= 1", note="of the stack",
        ),
        Row(
            name=f"last write, {back // 1_000_000} M instructions back", value=median(old_writes), unit="ms",
            peer=goal, peer_value=30, goal="<= 1", note="in a page of the stack that is written all the time",
        ),
    ]  # fmt: skip


def reverse_rows() -> list[Row]:
    """Step back from the end of a long loop, here and in QEMU, which executes from its beginning each time."""
    name, peer = "step back from the end of a loop", "QEMU's reverse-stepi"
    with tempfile.TemporaryDirectory() as folder:
        program = build_guest(Path(folder), LOOP_ROUNDS)
        lacks = missing() if program is not None else "riscv64-unknown-elf-gcc"
        if program is None or lacks:
            return [Row(name=name, value=None, unit="ms", peer=peer, note=f"{lacks} is not installed")]
        shape = MachineShape(ram_bytes=16 << 20)
        machine, image = RecordedMachine(shape), parse_elf(program.read_bytes(), ram_base=RAM_BASE, ram_bytes=16 << 20)
        machine.boot(image)
        machine.begin()
        while machine.run(1 << 62) is not StopReason.FINISHED:
            machine.take_outputs()
        with TimeMachine(machine.recording()) as past:
            past.go(past.end)
            first, *following = [timed(past.step_back) for _ in range(20)]
        theirs = 1e3 * statistics.median(qemu_step_back_seconds(Path(folder), program, image.tohost, 3))
    middle, note = statistics.median(following), f"{past.end // 1_000_000} M instructions"
    return [
        Row(name=f"{name}, first", value=first, unit="ms", peer=peer, peer_value=theirs, note=note),
        Row(name=f"{name}, next", value=middle, unit="ms", peer=peer, peer_value=theirs, note=note),
    ]


def measure(arguments: argparse.Namespace) -> Sequence[Row]:
    past = record(arguments.millions * 1_000_000)
    return [*hooks_rows(past, arguments.rounds), *travel_rows(past, arguments.rounds), *reverse_rows()]


if __name__ == "__main__":
    report(__doc__ or "", measure, ("rounds", int, 11), ("millions", int, 110))
