"""Who a host is: its node, its process and release, and where it is reached; a status is signed with it."""

import os
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version

from ftvm.runtime import names
from ftvm.runtime.clock import wall_time
from ftvm.runtime.status import Status
from ftvm.units import seconds_to_nanos

__all__ = ["Identity"]


def _release() -> str:
    try:
        return version("ftvm")
    except PackageNotFoundError:  # run from a tree that is not installed
        return "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One host. `listen` is where peers reach it, `arbiter` the URL of its record store."""

    node: str
    listen: str
    arbiter: str
    pid: int = field(default_factory=os.getpid)
    version: str = field(default_factory=_release)
    started: str = field(default_factory=wall_time)

    def fresh_id(self) -> str:
        """Return an id for a replica of this host that no other has."""
        return names.fresh_id(self.node)

    def sign(self, status: Status, loop_late_ms: float, counters: dict[str, int]) -> Status:
        """Return the status with who tells it, how late its loop was, what it moved, and the time of day."""
        return replace(
            status,
            loop_late_ms=loop_late_ms,
            counters=counters,
            node=self.node,
            pid=self.pid,
            version=self.version,
            listen=self.listen,
            arbiter=self.arbiter,
            started=self.started,
            time=wall_time(),
            since=wall_time(seconds_to_nanos(status.state_seconds)),
        )
