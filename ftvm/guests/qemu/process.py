"""A QEMU process: started with its sockets open, watched, and never left behind.

Promises: the process ends with this one, however this one ends (the kernel kills it, see qemu_preload.c); `close` ends
it and waits until it is gone; the error says why it ended, with its own last words. A separate thread starts and
reaps it: to the kernel, the thread that started a process is its parent. Knows neither memory nor protection.
"""

import os
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from ftvm.errors import ConfigError, GuestError
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.server import DiskServer
from ftvm.guests.qemu.haste import Haste
from ftvm.guests.qemu.machine import QemuMachine, Wires
from ftvm.guests.qemu.qmp import Qmp

__all__ = ["QemuProcess"]

_START_SECONDS: Final = 20.0
"""To its greeting, on a busy machine."""
_END_SECONDS: Final = 10.0
_LAST_WORDS_KEPT: Final = 12
_LINE_CHARS_MAX: Final = 4_096
_SOCKET_BUFFER_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _SocketPair:
    """Two ends of a socket: ours, and the one that QEMU inherits."""

    ours: socket.socket
    theirs: socket.socket

    @classmethod
    def make(cls, kind: socket.SocketKind) -> Self:
        pair = cls(*socket.socketpair(socket.AF_UNIX, kind))
        for end in (pair.ours, pair.theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        pair.ours.setblocking(False)
        return pair


class QemuProcess:
    """One run of QEMU, paused at first.

    network and console are our ends of its sockets; haste is for whoever waits for it; userfault is a descriptor made
    in it, for tracking its memory, or None with the reason in `userfault_refused`.
    """

    def __init__(
        self,
        machine: QemuMachine,
        *,
        ram: int,
        state: int,
        disks: Sequence[Disk],
        boots: bool,
        cards: Sequence[int] = (),
    ) -> None:
        """Start it. `ram` and `state` are descriptors of the memory and of the file for device state, `cards` those of
        its cards, if they are pumped.

        Its `disks` are served to it from the start on: it asks for them before it greets.

        Raises ConfigError if there is no such program, GuestError if it does not come up; nothing is left then.
        """
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS_KEPT)
        self._started = threading.Event()
        self._ended = threading.Event()
        self._trouble: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        monitor, console, helper, *blocks = (_SocketPair.make(stream) for _ in range(3 + len(disks)))
        network = _SocketPair.make(datagram)
        self.network, self.console, self._blocks = network.ours, console.ours, [pair.ours for pair in blocks]
        self._disk_servers = [DiskServer(disk, end) for disk, end in zip(disks, self._blocks, strict=True)]
        networks = tuple(cards) or ((network.theirs.fileno(),) if machine.macs else ())
        wires = Wires(
            ram=ram,
            state=state,
            monitor=monitor.theirs.fileno(),
            console=console.theirs.fileno(),
            networks=networks,
            disks=tuple(pair.theirs.fileno() for pair in blocks),
        )
        pairs = (monitor, console, helper, network, *blocks)
        inherited = (*(pair.theirs.fileno() for pair in pairs), ram, state, *cards)
        environment = _environment(helper.theirs.fileno())
        command = machine.command(wires, boots=boots)
        self._keeper = threading.Thread(
            target=self._keep, args=(command, machine.folder, inherited, environment), name="qemu-keeper", daemon=True
        )
        self._keeper.start()
        self._started.wait()
        for pair in pairs:
            pair.theirs.close()
        self.userfault, self.userfault_refused = None, ""
        try:
            self._require_started(machine)
            self.qmp = self._greet(monitor.ours)
            self.userfault, self.userfault_refused = _receive_descriptor(helper.ours)
            self.haste = self._make_haste()
        except BaseException:
            monitor.ours.close()
            self._end()
            raise
        finally:
            helper.ours.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid if self._process is not None else 0

    def why_ended(self) -> str | None:
        """Return how it ended and what it said last, or None while it lives."""
        if not self._ended.is_set() or self._process is None:
            return None
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        words = "; ".join(self._last_words)
        return f"QEMU {how}" + (f": {words}" if words else "")

    def wait_ended(self, seconds: float) -> str | None:
        """Give it so long to end by itself; return what `why_ended` does."""
        self._ended.wait(seconds)
        return self.why_ended()

    def kill(self) -> None:
        """End it at once and wait until it is gone: nothing of it runs or writes after this. Idempotent."""
        if self._process is not None and not self._ended.is_set():
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
        self._ended.wait(_END_SECONDS)
        for server in self._disk_servers:
            server.close()  # it may still have had requests to carry out

    def close(self) -> None:
        """Kill it and give everything back. Idempotent."""
        self.kill()
        self.qmp.close()
        self._end()

    def _end(self) -> None:
        self.kill()
        for end in (self.network, self.console, *self._blocks):
            end.close()
        if self.userfault is not None:
            os.close(self.userfault)
            self.userfault = None
        self._keeper.join(_END_SECONDS)

    def take_userfault(self) -> int | None:
        """Hand the descriptor over; it is the caller's from now on."""
        descriptor, self.userfault = self.userfault, None
        return descriptor

    # --- the keeper's thread ---

    def _keep(
        self, command: Sequence[str], folder: str | None, inherited: tuple[int, ...], environment: dict[str, str]
    ) -> None:
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=inherited,
                env=environment,
                start_new_session=True,  # Ctrl-C is for ftvm, which ends it in order
            )
        except OSError as wrong:
            self._trouble = wrong
            self._ended.set()
            return
        finally:
            self._started.set()
        with self._process:
            while self._process.stdout is not None and (line := self._process.stdout.readline(_LINE_CHARS_MAX)):
                self._last_words.append(line.decode(errors="replace").strip())
        self._ended.set()

    def _require_started(self, machine: QemuMachine) -> None:
        if self._trouble is not None:
            raise ConfigError(
                f"{machine.program} cannot be started: {self._trouble.strerror}; "
                "Debian has it in the package qemu-system-x86"
            ) from self._trouble

    def _make_haste(self) -> Haste:
        """Its monitor has its own thread: all threads that run no processor take part in an answer."""
        processors = {int(processor["thread-id"]) for processor in self.qmp.execute("query-cpus-fast")} - {self.pid}
        answering = {int(thread) for thread in os.listdir(f"/proc/{self.pid}/task")} - processors
        answering |= {server.thread_id for server in self._disk_servers if server.thread_id is not None}
        return Haste(sorted(answering), sorted(processors))

    def _greet(self, monitor: socket.socket) -> Qmp:
        try:
            return Qmp(monitor, greeting_timeout=_START_SECONDS)
        except GuestError as wrong:
            self.kill()
            raise GuestError(f"QEMU did not start: {self.why_ended()}") from wrong


def _environment(helper: int) -> dict[str, str]:
    added = {"FTVM_PARENT_PID": str(os.getpid()), "FTVM_USERFAULT_SOCKET": str(helper), "LD_PRELOAD": str(_preload())}
    return {**os.environ, **added}


def _preload() -> Path:
    """Return the path of what QEMU is to load first; it lies beside the C core."""
    core = find_spec("ftvm._native._core")
    if core is None or core.origin is None:
        raise ConfigError("the C core of ftvm is not installed")
    return Path(core.origin).with_name("qemu_preload.so")


def _receive_descriptor(helper: socket.socket) -> tuple[int | None, str]:
    """Take what qemu_preload.c sent before QEMU began: a userfaultfd, or why it could not make one."""
    try:
        content, descriptors, _, _ = socket.recv_fds(helper, 1, 1)
    except BlockingIOError:
        return None, "this QEMU does not load libraries from LD_PRELOAD"
    if descriptors:
        return descriptors[0], ""
    refused = os.strerror(content[0]) if content else "it closed the socket"
    return None, f"QEMU may not make a userfaultfd: {refused}"
