"""Pairs that run by themselves: two hosts with threads and sockets in this process, and who hears their guest."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftvm.checkpoint import Output
from ftvm.config import Timing
from ftvm.interfaces import Engine, Guest, World
from ftvm.runtime.protection import HostHandle, Protection, Standby, protect
from ftvm.runtime.world import CallbackWorld
from ftvm.units import Nanos

PATIENCE_S = 60.0
POLL_S = 0.02
PATIENT = Timing(
    heartbeat_ns=Nanos(50_000_000), backup_limit_ns=Nanos(20_000_000_000), primary_limit_ns=Nanos(30_000_000_000)
)
"""Limits far above what a busy machine or a reconnect takes, for pairs of which no host dies: no session ends early."""


class Ear:
    """Hears what a guest lets out, from any host; an output that comes again must be the same."""

    def __init__(self) -> None:
        self.heard: dict[int, Output] = {}

    def hear(self, output: Output) -> None:
        first = self.heard.setdefault(output.number, output)
        assert (first.channel, first.payload) == (output.channel, output.payload), output.number

    def text(self) -> str:
        """What was said on the console; no output may be missing."""
        numbers = sorted(self.heard)
        assert numbers == list(range(1, len(numbers) + 1))
        said = (self.heard[number] for number in numbers)
        return b"".join(output.payload for output in said if output.channel == "console").decode()

    def wait_until(self, is_true: Callable[[str], object]) -> None:
        """Wait until it is true of what was said."""
        for _ in range(int(PATIENCE_S / POLL_S)):
            if is_true(self.text()):
                return
            threading.Event().wait(POLL_S)
        raise AssertionError(f"it was never said: {self.text()[-400:]!r}")


def start_pair(
    booted: Guest,
    blank: Guest,
    folder: Path,
    *,
    engine: Engine,
    timing: Timing,
    ear: Ear,
    world: World | None = None,
) -> tuple[Protection, Standby]:
    """Start host a with a guest that boots, and host b, which stands by for it with its own `world`."""
    shared: dict[str, Any] = {"arbiter": f"file://{folder}", "engine": engine, "timing": timing}
    a, b = f"ipc://{folder}/a", f"ipc://{folder}/b"
    standby = Standby(blank, listen=b, peers=[a], world=world or CallbackWorld(ear.hear), **shared)
    return protect(booted, listen=a, create=True, world=CallbackWorld(ear.hear), **shared), standby


def kill(host: HostHandle) -> None:
    """Close everything of a host without a goodbye: what a SIGKILL looks like from outside."""
    node = host._node
    node._is_closed = True
    node.host.stop()
    for part in (node._guest, node._transport, node._arbiter, node._world):
        part.close()
