"""What commands that ask a running host share: how to find it, and how its guest stands, in one line."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from ftvm.cli.sentences import stopped_line
from ftvm.cli.values import complete_guests
from ftvm.runtime.names import for_people, node_of
from ftvm.runtime.standing import State
from ftvm.runtime.status import Status
from ftvm.service.controlline import MuteHost

__all__ = ["asking_options", "guest_option", "memory_line", "mute_told", "state_line", "status_line", "tell_stopped"]

F = TypeVar("F", bound=Callable[..., Any])

_LATE_PART: Final = 0.5
"""A loop that is late by this part of the limit of silence is worth a warning."""

guest_option: Final = click.option(
    "--guest", "guest_id", metavar="ID", shell_complete=complete_guests, help="Which guest, if there are several."
)


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
    node = f" on {status.node} (process {status.pid})" if status.node else ""  # two hosts may be on one node
    warned = "".join(f"; warning: {text}" for text in status.warnings)
    return for_people(f"guest {status.guest_id!r}{node}: {state_line(status)}; {where}{memory}{_late(status)}{warned}")


def state_line(status: Status) -> str:
    """Return how the guest stands on this host, since when and why."""
    since, reason = _since(status), f": {status.reason}" if status.reason else ""
    standby = "a standby" if status.standby is None else node_of(status.standby)
    match status.state:
        case State.PROTECTED:
            engine = ", ".join(filter(None, (status.engine, status.engine_settings)))
            return f"runs here, protected by {standby} ({engine}, lag {status.lag_ms:.1f} ms)"
        case State.NO_TAKEOVER:
            return f"runs here, protected by {standby}, but no takeover is possible{since}{reason}"
        case State.STANDING_STILL:
            return f"stands still here{since}{reason}{_progress(status)}"
        case State.UNPROTECTED:
            return f"runs here, unprotected{since}{reason}"
        case State.SYNCING if status.role == "active":
            return f"runs here, and a standby is being copied to{reason}{_progress(status)}"
        case State.SYNCING:
            return f"is being copied to this host{since}{reason}"
        case State.STANDBY:
            return f"standby here{'' if status.active is None else f', of {node_of(status.active)}'}{reason}"
        case State.STANDBY_UNABLE:
            return f"standby here, but it could not take over{since}{reason}"
        case State.FAILED:
            return f"failed{since}: {status.failure}"
        case _:
            return f"has no state here{since}{reason}"


def _late(status: Status) -> str:
    """Return a warning if the loop was late by so much that the peer may soon take this host for dead."""
    if not status.silence_ms or status.loop_late_ms < status.silence_ms * _LATE_PART:
        return ""
    return (
        f"; its loop was late by {status.loop_late_ms:.0f} ms: unless it was stopped, give this host more "
        "processor time, or raise --silence"
    )


def tell_stopped(told: Mapping[str, Any], is_json: bool) -> None:
    """Print what became of a host and its guest, given the fields of its HostStopped; exit with 1 if not in order."""
    click.echo(json.dumps(told) if is_json else f"guest {told['guest_id']!r}: {stopped_line(told)}")
    sys.exit(0 if told["is_in_order"] else 1)


def mute_told(mute: MuteHost) -> dict[str, Any]:
    """Return what --json tells of a host that does not answer."""
    return {"control": f"ipc://{mute.path}", "pid": mute.pid, "guest_id": mute.guest, "error": str(mute)}


def memory_line(status: Status) -> str:
    """Return the memory that a host uses for its guest, in MiB, rounded up."""
    parts = {"guest": status.guest_bytes, "shadow": status.shadow_bytes, "staging": status.staging_bytes}
    return ", ".join(f"{-(-size // (1 << 20))} MiB {name}" for name, size in parts.items() if size)


def _since(status: Status) -> str:
    """Return since when, to the second: with the day only if that is not today."""
    if not status.since:
        return ""
    day, _, time = status.since[:19].partition("T")
    return f" since {time} UTC" if status.time.startswith(day) else f" since {day} {time} UTC"


def _progress(status: Status) -> str:
    """Return how far the first copy is, and how long the present round will take at the speed so far."""
    left, sent = status.copy_pages_left, status.copy_pages_sent
    if not left or not status.copy_round:
        return f"; {left} pages of the first copy to go" if left else ""  # a host of 0.1 tells no more
    soon = f", about {left * status.state_seconds / sent:.0f} s more" if sent else ""
    return f"; first copy, round {status.copy_round}: {sent} pages sent, {left} to go{soon}"
