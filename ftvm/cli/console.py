"""`ftvm console GUEST`: the guest's console on this terminal, typed at and read like a serial line."""

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from typing import Final

import click

from ftvm.cli.values import complete_guests
from ftvm.errors import BrokenError, ConfigError, FtvmError
from ftvm.runtime.clock import MonotonicClock
from ftvm.service.connection import connect
from ftvm.service.console import ConsoleLine
from ftvm.units import Nanos, nanos_to_seconds, seconds_to_nanos

__all__ = ["TypedKeys", "console"]

_READ_BYTES: Final = 1 << 16
_MOVE_SECONDS: Final = 15.0
"""How long to look for a guest that has gone on at another host of this machine."""
_LOOK_SECONDS: Final = 0.25
_ANSWER_SECONDS: Final = 1.0
"""How long to show what the guest answers once there is nothing more to type, as behind a pipe."""


@click.command()
@click.argument("guest_id", metavar="[GUEST]", required=False, shell_complete=complete_guests)
@click.option("--read-only", is_flag=True, help="Only look on: nothing that is typed goes to the guest.")
@click.option("--escape", default="^]", show_default=True, metavar="^X", help="The key that begins a word to ftvm.")
@click.option("--control", metavar="ipc:///PATH", help="The host's control socket.  [default: all hosts of this user]")
def console(guest_id: str | None, read_only: bool, escape: str, control: str | None) -> None:
    """Connect this terminal to the console of a guest that runs on this machine.

    Shows what the guest said last, then what it says, each once it is safe; what you type goes to the guest. After the
    escape key: `.` ends the console, the escape key again is sent to the guest. If the guest goes on at another host of
    this machine, so does its console; if on another machine, run this there. With --read-only it needs no terminal and
    no input; else it ends a second after its input does.
    """
    keys = TypedKeys(_key(escape))
    is_first = True
    with _raw_terminal():
        while (line := _reach(control, guest_id, is_read_only=read_only, is_first=is_first)) is not None:
            if is_first and sys.stdin.isatty():
                _say(f"console of the guest; {escape} then . ends it" + (", read only" if read_only else ""))
            is_first = False
            with contextlib.closing(line):
                if _carry(line, keys, is_read_only=read_only):
                    return
            _say("the host has ended, or the guest runs on another now; looking for it on this machine")
    raise BrokenError("the guest runs on no host of this machine any more: run `ftvm console` where it does")


class TypedKeys:
    """Tells what of the typed is for the guest, and when the console is to end: the escape key, then a full stop."""

    def __init__(self, escape: bytes) -> None:
        self._escape = escape
        self._has_escaped = False
        self.is_over = False

    def take(self, typed: bytes) -> bytes:
        """Return what of these bytes goes to the guest; nothing behind the end."""
        passed = bytearray()
        for code in typed:
            key = bytes([code])
            if self._has_escaped:
                self._has_escaped = False
                if key == b".":
                    self.is_over = True
                    break
                passed += key if key == self._escape else self._escape + key
            elif key == self._escape:
                self._has_escaped = True
            else:
                passed += key
        return bytes(passed)


def _key(escape: str) -> bytes:
    if len(escape) == 2 and escape[0] == "^" and "@" <= escape[1].upper() <= "_":
        return bytes([ord(escape[1].upper()) & 0x1F])
    raise ConfigError(f"--escape {escape!r}: write ^ and a key, e.g. ^]")


def _reach(control: str | None, guest_id: str | None, *, is_read_only: bool, is_first: bool) -> ConsoleLine | None:
    """Return a connection to the console where the guest runs; None if it is not found again for a while."""
    clock = MonotonicClock()
    began = clock.now()
    while True:
        try:
            return _connect(control, guest_id, is_read_only=is_read_only)
        except FtvmError:
            if is_first:
                raise
        if nanos_to_seconds(clock.now() - began) > _MOVE_SECONDS:
            return None
        select.select((), (), (), _LOOK_SECONDS)


def _connect(control: str | None, guest_id: str | None, *, is_read_only: bool) -> ConsoleLine:
    with connect(control) as machine:
        guest = machine.guest(guest_id)
    if guest.last_status.role != "active":
        raise ConfigError(f"guest {guest.id!r} does not run on this machine: run `ftvm console` where it does")
    return ConsoleLine(guest.path, is_read_only=is_read_only)


def _carry(line: ConsoleLine, keys: TypedKeys, *, is_read_only: bool) -> bool:
    """Carry bytes both ways; return True once the user has enough, False if the host hung up."""
    typing, out = sys.stdin.fileno(), sys.stdout.fileno()
    clock = MonotonicClock()
    ends_at: Nanos | None = None
    sources: list[ConsoleLine | int] = [line, typing]
    while True:
        left = None if ends_at is None else nanos_to_seconds(ends_at - clock.now())
        if left is not None and left <= 0:
            return True
        ready = select.select(sources, (), (), left)[0]
        if line in ready:
            if not (said := line.read()):
                return False
            _write(out, said)
        if typing in ready:
            typed = os.read(typing, _READ_BYTES)
            line.type(keys.take(typed))
            if keys.is_over:
                return True
            if not typed:
                sources.remove(typing)
                ends_at = None if is_read_only else Nanos(clock.now() + seconds_to_nanos(_ANSWER_SECONDS))


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Have each key come as it is typed, and put the terminal back at the end, with nothing left for the shell."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin.fileno())
    tty.setraw(sys.stdin.fileno())
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin.fileno(), termios.TCSAFLUSH, before)


def _say(text: str) -> None:
    click.echo(f"\r\nftvm: {text}\r\n", err=True, nl=False)
