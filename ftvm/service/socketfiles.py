"""Where control sockets are by default, and how they are made so that only their owner can use them.

One folder for each user: $XDG_RUNTIME_DIR/ftvm, else /run/ftvm for root, else a folder of the user's own under /tmp. In
it one socket for each host process, GUEST.PID.sock: two hosts of one guest may run on one machine, and the socket of a
killed process is in nobody's way.
"""

import errno
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from ftvm.errors import ConfigError, TransportError
from ftvm.transport.endpoints import check_free, parse_endpoint

__all__ = [
    "clear_left_behind",
    "control_folder",
    "guest_named_in",
    "listen_privately",
    "may_be_of",
    "own_endpoint",
    "prepare_folder",
    "sockets_in",
]

_BACKLOG: Final = 16
_NAME_CHARS_MAX: Final = 24
"""Of a guest's name, so that the socket's path does not get too long."""

SOCKETS_MAX: Final = 256
"""How many control sockets of one folder are looked at."""


def control_folder(environment: Mapping[str, str] | None = None, uid: int | None = None) -> Path:
    """Return the folder of this user's control sockets; it need not exist."""
    environment = os.environ if environment is None else environment
    uid = os.getuid() if uid is None else uid
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime) / "ftvm"
    return Path("/run/ftvm") if uid == 0 else Path(f"/tmp/ftvm-{uid}")


def prepare_folder(folder: Path) -> None:
    """Make the folder, for its owner only, and clear away what processes left there that were killed.

    Raises TransportError if it cannot be made or is somebody else's.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as wrong:
        raise TransportError(
            f"cannot make the folder for control sockets {folder}: {wrong.strerror}; "
            "set XDG_RUNTIME_DIR, choose a socket with --control ipc:///PATH, or do without: --control none"
        ) from wrong
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):
        raise TransportError(
            f"the folder for control sockets {folder} is a link, or belongs to another user (uid {found.st_uid}): "
            "set XDG_RUNTIME_DIR to a folder of yours, or choose a socket with --control ipc:///PATH"
        )
    clear_left_behind(folder)


def clear_left_behind(folder: Path) -> None:
    """Remove the sockets of processes that were killed, if the folder is ours."""
    try:
        is_ours = folder.lstat().st_uid == os.getuid() and not folder.is_symlink()
    except FileNotFoundError:
        return
    for path in sockets_in(folder) if is_ours else ():
        if _is_left_behind(path):
            path.unlink(missing_ok=True)
            path.with_suffix(".console").unlink(missing_ok=True)


def own_endpoint(folder: Path, guest_id: str, pid: int | None = None) -> str:
    """Return the endpoint of this process's control socket for a guest; the name of the guest is there for people."""
    name = f"{quote(guest_id, safe='')[:_NAME_CHARS_MAX]}.{os.getpid() if pid is None else pid}.sock"
    return f"ipc://{folder / name}"


def guest_named_in(path: Path) -> str | None:
    """Return the guest that a control socket is named after, cut off if it is long; None if it is named otherwise."""
    name, _, pid = path.stem.rpartition(".")
    return unquote(name) if name and pid.isdecimal() and path.suffix == ".sock" else None


def may_be_of(path: Path, guest_id: str) -> bool:
    """Tell whether a control socket may be that of a guest's host, by its name."""
    name = path.stem.rpartition(".")[0]
    return guest_named_in(path) is None or name == quote(guest_id, safe="")[:_NAME_CHARS_MAX]


def sockets_in(folder: Path) -> list[Path]:
    """Return the control sockets in a folder, in the order of their names; none if there is no such folder."""
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix == ".sock" and path.is_socket())
    except FileNotFoundError:
        return []
    except OSError as wrong:
        raise ConfigError(f"the folder of control sockets {folder} cannot be read: {wrong.strerror}") from wrong
    return found[:SOCKETS_MAX]


def listen_privately(endpoint: str) -> socket.socket:
    """Return a socket that listens at an ipc endpoint, of mode 0600 from its first moment.

    Replaces a socket at which nobody answers. Raises ConfigError, TransportError; nothing is left behind then.
    """
    place = parse_endpoint(endpoint)
    if place.scheme != "ipc":
        raise ConfigError(f"control socket {endpoint!r}: write ipc:///PATH (file permissions decide who may use it)")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # Linux gives the file the mode of the socket: no moment of wider rights
        try:
            listening.bind(place.path)
        except OSError as wrong:
            if wrong.errno != errno.EADDRINUSE:
                raise
            check_free(place)
            Path(place.path).unlink(missing_ok=True)
            listening.bind(place.path)
        listening.listen(_BACKLOG)
    except OSError as wrong:
        listening.close()
        raise TransportError(f"cannot make control socket {endpoint}: {wrong.strerror}") from wrong
    except BaseException:
        listening.close()
        raise
    return listening


def _is_left_behind(path: Path) -> bool:
    """Tell whether the process that a socket is named after is gone, and nobody answers there."""
    pid = path.stem.rpartition(".")[2]
    if not pid.isdecimal() or Path("/proc", pid).exists():
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED
