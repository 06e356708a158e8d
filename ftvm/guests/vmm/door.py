"""The unix socket where monitors come in: only this user's, and one hello each.

Promises: nobody but the user (and root) can connect; what a monitor passed is checked before it is used, and closed if
it is refused; a path that somebody else uses is left alone, and nothing is left at it after `close`.

Source: unix(7), "SCM_RIGHTS" and "SO_PEERCRED".
"""

import array
import os
import socket
import stat
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from ftvm.errors import BadFrame, ClosedError, ConfigError, GuestError
from ftvm.guests.vmm.memory import HandedMemory, map_regions, require_descriptor
from ftvm.guests.vmm.messages import REGIONS_MAX, VERSION, FrameReader, Hello, decode_hello, frame

__all__ = ["Arrival", "MonitorDoor"]

_BACKLOG: Final = 16
_HELLO_SECONDS: Final = 5.0
_PIECE_BYTES: Final = 64 << 10
_PATH_BYTES_MAX: Final = 107
_CREDENTIALS: Final = struct.Struct("iII")
_DESCRIPTORS_MAX: Final = REGIONS_MAX + 2
_INT_BYTES: Final = array.array("i").itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A monitor that came in and was told whether to boot.

    userfault, pagemap  its own descriptors, if that is how written pages are found; whoever takes this closes them
    """

    connection: socket.socket
    pid: int
    hello: Hello
    memory: tuple[HandedMemory, ...] = field(repr=False)
    userfault: int | None
    pagemap: int | None


class MonitorDoor:
    """A listening socket at `path`; monitors that wait there come in one by one."""

    def __init__(self, path: str | Path) -> None:
        """Listen. Raises ConfigError; nothing is left at the path then that was not there."""
        self.path = str(path)
        if not 0 < len(os.fsencode(self.path)) <= _PATH_BYTES_MAX:
            raise ConfigError(f"a socket's path has 1 to {_PATH_BYTES_MAX} bytes: {self.path}")
        _remove_dead(self.path)
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.fchmod(self._socket.fileno(), 0o600)  # before it is bound: there is no moment in which others may
            self._socket.bind(self.path)
            self._socket.listen(_BACKLOG)
        except OSError as wrong:
            self._socket.close()
            raise ConfigError(f"no socket can be made at {self.path}: {wrong.strerror}") from wrong
        self._inode = os.stat(self.path).st_ino
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Its descriptor: readable when a monitor waits to come in. -1 once it is closed."""
        return self._socket.fileno() if self._socket is not None else -1

    def receive(self, *, boots: bool, seconds: float, memory_bytes_max: int) -> Arrival:
        """Wait for a monitor, check what it hands over, and tell it whether its guest starts here.

        Raises GuestError if none came in time, or if it was refused; it was told why.
        """
        with self._turn:
            if self._socket is None:
                raise ClosedError("this door for monitors was closed")
            self._socket.settimeout(seconds)
            try:
                connection, _ = self._socket.accept()
            except TimeoutError as wrong:
                raise GuestError(f"no monitor connected to {self.path} within {seconds:g} s") from wrong
        try:
            return _welcome(connection, boots=boots, memory_bytes_max=memory_bytes_max)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Listen no longer, and take the socket away. Idempotent."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        with suppress(FileNotFoundError):
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)


def _remove_dead(path: str) -> None:
    """Remove a socket at which nobody listens. Raises ConfigError if something else is there."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConfigError(f"{path} is there already, and is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as wrong:
            raise ConfigError(f"the socket {path} is there already: {wrong.strerror}") from wrong
    raise ConfigError(f"another process waits for monitors at {path}")


def _welcome(connection: socket.socket, *, boots: bool, memory_bytes_max: int) -> Arrival:
    pid, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    connection.settimeout(_HELLO_SECONDS)
    descriptors: list[int] = []
    try:
        if uid not in (os.geteuid(), 0):
            raise BadFrame(f"the monitor (process {pid}) is of user {uid}, this host is of user {os.geteuid()}")
        hello = _receive_hello(connection, descriptors)
        arrival = _check(connection, pid, hello, descriptors, memory_bytes_max)
        connection.sendall(frame(["welcome", VERSION, boots]))
    except (BadFrame, OSError) as wrong:
        _close_all(descriptors)
        with suppress(OSError):
            connection.sendall(frame(["refused", str(wrong)[:1000]]))
        raise GuestError(f"the monitor (process {pid}) is refused: {wrong}") from wrong
    except BaseException:
        _close_all(descriptors)
        raise
    _close_all(descriptors[: len(hello.regions)])  # they are mapped
    connection.setblocking(False)
    return arrival


def _receive_hello(connection: socket.socket, descriptors: list[int]) -> Hello:
    """Take the first message, which must come whole in time; what was passed beside it is added to `descriptors`."""
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RD)

    limit = threading.Timer(_HELLO_SECONDS, end)
    limit.start()
    try:
        return _read_hello(connection, descriptors)
    finally:
        limit.cancel()
        limit.join()
        if is_late.is_set():
            raise BadFrame(f"it did not say hello within {_HELLO_SECONDS:g} s")


def _read_hello(connection: socket.socket, descriptors: list[int]) -> Hello:
    reader = FrameReader(payload_bytes_max=0)
    while True:
        piece, passed, flags, _ = connection.recvmsg(
            _PIECE_BYTES, socket.CMSG_SPACE(_DESCRIPTORS_MAX * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in passed:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                descriptors.extend(array.array("i", content[: len(content) - len(content) % _INT_BYTES]))
        if flags & socket.MSG_CTRUNC or len(descriptors) > _DESCRIPTORS_MAX:
            raise BadFrame(f"more than {_DESCRIPTORS_MAX} descriptors were passed")
        if not piece:
            raise BadFrame("it closed the connection before it said hello")
        frames = list(reader.take(piece))
        if len(frames) > 1 or (frames and not reader.is_empty):
            raise BadFrame("it spoke before it was welcome")
        if frames:
            return decode_hello(*frames[0])


def _check(connection: socket.socket, pid: int, hello: Hello, descriptors: list[int], memory_bytes_max: int) -> Arrival:
    regions = len(hello.regions)
    has_userfault = hello.tracking == "userfault"
    if len(descriptors) != regions + 2 * has_userfault:
        asked = f"{regions} regions" + (", a userfaultfd and a pagemap" if has_userfault else "")
        raise BadFrame(f"{len(descriptors)} descriptors were passed for {asked}")
    userfault, pagemap = descriptors[regions:] if has_userfault else (None, None)
    if userfault is not None and pagemap is not None:
        require_descriptor(userfault, "userfaultfd", "anon_inode:[userfaultfd]")
        require_descriptor(pagemap, "pagemap", "/pagemap")
    return Arrival(
        connection=connection,
        pid=pid,
        hello=hello,
        memory=map_regions(hello.regions, descriptors[:regions], memory_bytes_max),
        userfault=userfault,
        pagemap=pagemap,
    )


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
