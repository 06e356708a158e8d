"""What commands that ask a running host share: how to find it, and its status in one line."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ftvm.runtime.status import Status
from ftvm.service.controlline import MuteHost

__all__ = ["asking_options", "guest_option", "memory_line", "status_line"]

F = TypeVar("F", bound=Callable[..., Any])

guest_option: Final = click.option("--guest", "guest_id", metavar="ID", help="Which guest, if there are several.")


def asking_options(command: F) -> F:
    """Add the options that say which hosts to ask."""
    for option in (
        click.option("--json", "is_json", is_flag=True, help="Print JSON instead of text."),
        click.option(
            "--control",
            metavar="ipc:///PATH",
            help="A host's control socket, or a folder of them.  [default: all hosts of this user]",
        ),
    ):
        command = option(command)
    return command


def status_line(status: Status) -> str:
    """Return in one line what an operator wants to know first."""
    where = f"generation {status.generation}, epoch {status.epoch}"
    memory = f"; memory {memory_line(status)}" if status.guest_bytes else ""  # not told by hosts of 0.1
    return f"guest {status.guest_id!r}: {_state(status)}; {where}{memory}"


def mute_told(mute: MuteHost) -> dict[str, Any]:
    """Return what --json tells of a host that does not answer."""
    return {"control": f"ipc://{mute.path}", "pid": mute.pid, "guest_id": mute.guest, "error": str(mute)}


def memory_line(status: Status) -> str:
    """Return the memory that a host uses for its guest, in MiB, rounded up."""
    parts = {"guest": status.guest_bytes, "shadow": status.shadow_bytes, "staging": status.staging_bytes}
    return ", ".join(f"{-(-size // (1 << 20))} MiB {name}" for name, size in parts.items() if size)


def _state(status: Status) -> str:
    if status.failure is not None:
        return f"failed: {status.failure}"
    if status.role != "active":
        return f"{status.role} here"
    if status.standstill is not None:
        return f"{status.standstill}{_pages_left(status)}"
    if status.lost_standby is not None:
        held = f"{status.outputs_held} outputs are held until the arbiter drops it"
        return f"runs here, its standby {status.lost_standby} is lost: {held}"
    if status.standby is not None:
        interval = "" if status.interval_ms is None else f"interval {status.interval_ms:g} ms, "
        return f"runs here, protected by {status.standby} ({status.engine}, {interval}lag {status.lag_ms:.1f} ms)"
    if status.copy_pages_left:
        return f"runs here, unprotected{_pages_left(status)}"
    return "runs here, unprotected: it has no standby"


def _pages_left(status: Status) -> str:
    left = status.copy_pages_left
    return f"; {left} pages of the first copy to go" if left else ""
