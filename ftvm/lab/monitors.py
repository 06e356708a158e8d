"""`ftvm vmm check`: does a monitor keep its half of docs/handover.md?

Runs the guest kit (ftvm.testing.check_guest) against it, and what the kit cannot know: that a monitor which is not to
boot leaves its memory zero and becomes what another one was, and that the end of its connection stops its guest for
good. Each trial takes a new monitor: it is started here, if there is a command for it, else it comes by itself.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from ftvm.errors import ConfigError, GuestError
from ftvm.guests.vmm import MonitorDoor, VmmGuest
from ftvm.testing.contract import ContractBroken, require
from ftvm.testing.transcript import Transcript, load_picture, take_picture

__all__ = ["MonitorCheck", "check_monitor"]

_TAKEN_IN: Final = "A monitor hands over what can be protected"
_BLANK: Final = "A monitor that is not to boot leaves its memory zero"
_BECOMES: Final = "A blank monitor becomes the machine whose state it is given"
_ENDS: Final = "The end of the connection stops the guest for good"
_ANSWERS: Final = "A monitor stays connected, and answers what it is asked in time, by the protocol"
_MOMENTS: Final = 20
_PATIENCE_SECONDS: Final = 60.0
_LAST_WORDS_BYTES: Final = 64 << 10
_END_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorCheck:
    """What to check.

    socket            where monitors connect
    command           starts one; empty: they come by themselves, again and again
    inputs            what to give the guest, as (channel, payload)
    is_deterministic  without inputs, what the guest says depends on its state alone
    examples          how many plans are tried
    moment_seconds    how long the guest runs in each step
    connect_seconds   what a monitor may take to connect, and for each answer
    """

    socket: str
    command: Sequence[str]
    inputs: Sequence[tuple[str, bytes]]
    is_deterministic: bool
    examples: int
    moment_seconds: float
    memory_bytes_max: int
    connect_seconds: float


def check_monitor(wanted: MonitorCheck) -> None:
    """Raise ContractBroken that names the promise and what was seen, unless all are kept. Leaves nothing running.

    A monitor that ends, hangs or lies is named with what it was told last, how its process ended, and its last line on
    stderr; all that this wrote there is passed on. No other is tried then.
    """
    try:
        from hypothesis import strategies as st

        from ftvm.testing.guest import check_guest
    except ModuleNotFoundError as wrong:
        raise ConfigError("the guest kit needs the package hypothesis: pip install 'ftvm[test]'") from wrong
    with closing(_Monitors(wanted)) as monitors, monitors.telling_the_lost():
        _check_blank(monitors)
        check_guest(
            monitors.make,
            inputs=st.sampled_from(list(wanted.inputs)) if wanted.inputs else None,
            is_deterministic=wanted.is_deterministic,
            examples=wanted.examples,
            moment_seconds=wanted.moment_seconds,
            patience_seconds=_PATIENCE_SECONDS + 2 * wanted.connect_seconds,
        )
        for end in (VmmGuest.cut, VmmGuest.close):
            _check_end(monitors, wanted.moment_seconds, end)


class _Monitors:
    """Makes guests, and ends the processes that were started for them."""

    def __init__(self, wanted: MonitorCheck) -> None:
        if wanted.command and shutil.which(wanted.command[0]) is None:
            raise ConfigError(f"{wanted.command[0]}: no such program")
        self._wanted = wanted
        self._door = MonitorDoor(wanted.socket)
        self._started: list[_Started] = []
        self._ending: list[subprocess.Popen[bytes]] = []
        self._lost: str | None = None

    def make(self, boots: bool = True) -> VmmGuest:
        """Return a guest of a new monitor. Raises ContractBroken, also if an earlier one was lost."""
        self._require_none_lost()
        self._ending = [process for process in self._ending if process.poll() is None]
        started = None
        if self._wanted.command:
            started = _Started(self._wanted.command)
            self._started.append(started)
            self._wait_beside(started.process)
        try:
            return _CheckedGuest(self._door, self._wanted, partial(self._note_end, started), boots=boots)
        except GuestError as wrong:
            raise ContractBroken(_TAKEN_IN, f"{wrong}{self._tell_end()}") from wrong

    @contextmanager
    def telling_the_lost(self) -> Iterator[None]:
        """Have what a lost monitor led to be told as that."""
        try:
            yield
        except (ContractBroken, GuestError):
            self._require_none_lost()
            raise
        self._require_none_lost()

    def _require_none_lost(self) -> None:
        if self._lost is not None:
            raise ContractBroken(_ANSWERS, self._lost)

    def _note_end(self, started: "_Started | None", complaint: str | None) -> None:
        """Note that a guest was closed, and what its monitor did wrong."""
        if complaint is not None and self._lost is None:
            self._lost = complaint if started is None else f"{complaint}{started.tell_end()}"
        if started in self._started:
            self._started.remove(started)
            self._ending.append(started.process)
            started.words.close()

    def _wait_beside(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until a monitor knocks, or its command ends. Raises ContractBroken if none came in time or the command
        failed; one that ended with status 0 may have left a monitor in the background."""
        end = os.pidfd_open(process.pid)
        try:
            ready = select.select((self._door.fileno(), end), (), (), self._wanted.connect_seconds)[0]
        finally:
            os.close(end)
        if self._door.fileno() not in ready and process.poll() != 0:
            why = self._tell_end() or f" within {self._wanted.connect_seconds:g} s"
            raise ContractBroken(_TAKEN_IN, f"no monitor connected to {self._door.path}{why}")

    def _tell_end(self) -> str:
        """Say how the newest monitor ended, if it did: why none came, or why it was refused."""
        return self._started[-1].tell_end() if self._started else ""

    def close(self) -> None:
        """End all."""
        for started in self._started:
            started.words.close()
        for process in [*self._ending, *(started.process for started in self._started)]:
            process.kill()
            process.wait()
        self._door.close()


class _CheckedGuest(VmmGuest):
    """Tells at its end what its monitor did wrong, if anything."""

    def __init__(
        self, door: MonitorDoor, wanted: MonitorCheck, note: Callable[[str | None], None], *, boots: bool
    ) -> None:
        self._note = note
        seconds = wanted.connect_seconds
        super().__init__(
            door,
            boots=boots,
            memory_bytes_max=wanted.memory_bytes_max,
            connect_seconds=seconds,
            answer_seconds=seconds,
        )

    def close(self) -> None:
        super().close()
        self._note(self.complaint())


class _Started:
    """A monitor that was started here; what it writes to stderr is kept."""

    def __init__(self, command: Sequence[str]) -> None:
        self.words = tempfile.TemporaryFile()  # noqa: SIM115 - it goes with this
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.words)

    def tell_end(self) -> str:
        """Say how it ended, if it does so soon, and what its last words were; pass all of them on."""
        try:
            status = self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            how = ""
        else:
            by = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
            how = f"; the command had ended {by}"
        self.words.seek(max(0, self.words.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        said = self.words.read().decode(errors="replace")
        sys.stderr.write(said)
        lines = said.strip().splitlines()
        return f"{how}; it said last: {lines[-1]}" if lines else how


def _check_blank(monitors: _Monitors) -> None:
    with closing(monitors.make()) as booted, closing(monitors.make(boots=False)) as blank:
        for guest in (booted, blank):
            guest.attach(Transcript())
        for region in blank.memory:
            require(not any(region.buffer), _BLANK, f"region {region.name} is not")
        require(blank.geometry == booted.geometry, _BECOMES, f"it says {blank.geometry}, not {booted.geometry}")
        picture = take_picture(booted)
        try:
            load_picture(blank, picture)
        except GuestError as wrong:
            raise ContractBroken(_BECOMES, str(wrong)) from wrong
        require(take_picture(blank) == picture, _BECOMES, "its memory or devices differ from what it was given")
        blank.resume()
        blank.pause()
        require(blank.failure() is None, _BECOMES, f"it does not run: {blank.failure()}")


def _check_end(monitors: _Monitors, moment_seconds: float, end: Callable[[VmmGuest], None]) -> None:
    with closing(monitors.make()) as guest:
        guest.attach(Transcript())
        regions = guest.memory
        guest.resume()
        select.select((), (), (), moment_seconds)
        end(guest)
    select.select((), (), (), _MOMENTS * moment_seconds)  # a monitor learns it in its own time
    before = [bytes(region.buffer) for region in regions]
    select.select((), (), (), _MOMENTS * moment_seconds)
    changed = [region.name for region, then in zip(regions, before, strict=True) if bytes(region.buffer) != then]
    require(not changed, _ENDS, f"it writes on to {', '.join(changed)}")
