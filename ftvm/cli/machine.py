"""`ftvm machine`: programs on the built-in RISC-V machine, by themselves."""

import json
import select
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from ftvm.checkpoint import Output
from ftvm.cli.values import DEFAULT_MAC, completing, parse_memory
from ftvm.errors import ConfigError
from ftvm.guests.datagram import DatagramWorld, cable_ends, mac_bytes
from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.machine import RAM_BASE, MachineShape
from ftvm.guests.riscv.programs import SUMMARIES, read_program
from ftvm.guests.riscv.standalone import Result, run_standalone
from ftvm.history.recording import RecordedMachine, write_recording
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import PAGE_BYTES

__all__ = ["machine"]

_NANOS_PER_TICK: Final = 10
_MESSAGES: Final = {
    "limit": "the program did not end within {retired} instructions",
    "fault": "the program trapped, and there is no trap handler where mtvec says",
    "waits": "the program waits for an interrupt that will never come",
}
"""What to tell a person about an end that is not the program's own."""


@click.group()
def machine() -> None:
    """Run programs on the built-in RISC-V machine."""


@machine.command(short_help="Run a program and print its console.")
@click.argument("program", metavar="PROGRAM", shell_complete=completing(SUMMARIES))
@click.option("--memory", default="64M", show_default=True, help="RAM, e.g. 64M or 1G.")
@click.option("--disk", metavar="FILE", help="A disk: read into memory, and written back when the program has ended.")
@click.option("--net", metavar="CABLE", help="A network card: udp:LOCALPORT:REMOTEPORT, a frame in each datagram.")
@click.option("--mac", help=f"The network card's address; needs --net.  [default: {DEFAULT_MAC}]")
@click.option("--append", "command_line", default="", metavar="TEXT", help="Boot arguments, in the device tree.")
@click.option("--input", "keys_file", metavar="FILE", help="What is typed at the console; - for this command's input.")
@click.option("--max-instructions", type=click.IntRange(min=1), metavar="N", help="Stop after so many instructions.")
@click.option("--record", metavar="FILE", help="Keep all that leads to each instruction again, for `ftvm history`.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of the console.")
def run(
    program: str,
    memory: str,
    disk: str | None,
    net: str | None,
    mac: str | None,
    command_line: str,
    keys_file: str | None,
    max_instructions: int | None,
    record: str | None,
    is_json: bool,
) -> None:
    """Run PROGRAM, an ELF file or the name of one that comes with ftvm, and print its console.

    Time is counted in instructions, and passes at once while the program waits: a run gives the same result each time,
    unless it has a network card. There is no entropy device, for the same reason.

    The exit status is 0 if the program reported success, 1 if it did not or did not end, 2 if it cannot run here.
    """
    if mac is not None and net is None:
        raise ConfigError(f"--mac {mac} needs --net: without a cable the machine has no network card")
    mac = mac or DEFAULT_MAC
    disk_image = _read_disk(disk) if disk is not None else b""
    shape = MachineShape(
        ram_bytes=parse_memory(memory),
        mac=mac_bytes(mac) if net is not None else None,
        disk_bytes=len(disk_image),
    )
    image = read_program(program) if program in SUMMARIES else _read(program, "program")
    keys = _read_keys(keys_file)
    board = RecordedMachine(shape)
    if board.disk is not None:
        board.disk.write(0, disk_image)
    board.boot(parse_elf(image, ram_base=RAM_BASE, ram_bytes=shape.ram_bytes), command_line=command_line)
    if record is not None:
        board.begin()
    console = bytearray()
    say = console.extend if is_json else _print
    cable = _WorldCable(net, mac) if net is not None else None
    try:
        result = run_standalone(board, say=say, keys=keys, instructions_max=max_instructions, cable=cable)
    finally:
        if cable is not None:
            cable.close()
        if record is not None:
            write_recording(Path(record), board.recording())
    if board.disk is not None and disk is not None:
        _write_disk(disk, bytes(board.disk.buffer))
    _report(result, console, is_json)
    sys.exit(0 if result.exit in ("pass", "finisher") and result.code == 0 else 1)


class _WorldCable:
    """A datagram cable as the machine's network, paced by the real clock."""

    def __init__(self, net: str, mac: str) -> None:
        local, remote = cable_ends(net)
        self._world = DatagramWorld(local, remote, mac=mac, console=lambda _: None)
        self._clock = MonotonicClock()
        self._sent = 0

    def send(self, frame: bytes) -> None:
        self._world.release(Output(number=self._sent, channel="net0", payload=frame))
        self._sent += 1

    def receive(self, limit: int) -> list[bytes]:
        return [payload for _, payload in self._world.receive(limit)]

    def wait(self, ticks: int) -> int:
        before = self._clock.now()
        select.select(self._world.fds(), (), (), ticks * _NANOS_PER_TICK / 1e9)
        return (self._clock.now() - before) // _NANOS_PER_TICK

    def close(self) -> None:
        self._world.close()


def _print(text: bytes) -> None:
    sys.stdout.write(text.decode(errors="replace"))
    sys.stdout.flush()


def _report(result: Result, console: bytearray, is_json: bool) -> None:
    if is_json:
        click.echo(json.dumps({**asdict(result), "console": console.decode(errors="replace")}))
    elif result.exit in _MESSAGES:
        click.echo(f"ftvm: {_MESSAGES[result.exit].format(retired=result.retired)}", err=True)
    elif result.code != 0:
        click.echo(f"ftvm: the program ended with code {result.code}", err=True)


def _read(path: str, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as wrong:
        names = f"; programs that come with ftvm are {', '.join(SUMMARIES)}" if what == "program" else ""
        raise ConfigError(f"the {what} {path} cannot be read: {wrong.strerror}{names}") from wrong


def _read_keys(path: str | None) -> bytes:
    if path is None:
        return b""
    return sys.stdin.buffer.read() if path == "-" else _read(path, "input")


def _read_disk(path: str) -> bytes:
    image = _read(path, "disk")
    if not image or len(image) % PAGE_BYTES:
        raise ConfigError(f"the disk {path} has {len(image)} bytes: its size must be a multiple of {PAGE_BYTES}, not 0")
    return image


def _write_disk(path: str, content: bytes) -> None:
    try:
        with Path(path).open("r+b") as file:
            file.write(content)
    except OSError as wrong:
        raise ConfigError(f"the disk {path} cannot be written back: {wrong.strerror}") from wrong
