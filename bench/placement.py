"""Which processor each process of a benchmark has, and how urgently it runs; the same for what they are compared with.

    python bench/placement.py CORE|any normal|realtime COMMAND...      becomes COMMAND, placed so

Two processes that share a processor wait for one another, two that do not wait for an interrupt between them: a round
trip takes 12 us or 36. So no figure means anything without where its processes ran.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ANY = "any"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Processors by number, or `any`: of the two hosts, of the client, and of the relay. `is_realtime`: all of them at
    SCHED_RR, so that nothing else on the machine comes first; for short runs, and by root alone."""

    primary: str
    standby: str
    client: str
    relay: str
    is_realtime: bool = False

    def command(self, role: str, words: Sequence[str]) -> list[str]:
        """Return the command that starts a process in its place; `role` is the name of a field."""
        urgency = "realtime" if self.is_realtime else "normal"
        return [sys.executable, "-P", str(Path(__file__)), getattr(self, role), urgency, *words]

    def __str__(self) -> str:
        where = (f"{role} on {_named(getattr(self, role))}" for role in ("primary", "standby", "client", "relay"))
        return ", ".join(where) + (", all at SCHED_RR 1" if self.is_realtime else ", normal priority")


def placement_named(name: str, cores: Sequence[int], *, is_realtime: bool = False) -> Placement:
    """Return a placement: `split` gives the hosts a processor each, `one` has all share one, `free` leaves it to the
    kernel. Where there are few processors, the client shares the standby's."""
    if name == "free":
        return Placement(primary=ANY, standby=ANY, client=ANY, relay=ANY, is_realtime=is_realtime)
    places = {"split": range(4), "one": (0, 0, 0, 0)}[name]
    primary, standby, client, relay = (str(cores[min(place, len(cores) - 1)]) for place in places)
    return Placement(primary=primary, standby=standby, client=client, relay=relay, is_realtime=is_realtime)


def usable_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def load_average() -> float:
    """Return how many processes wanted a processor, on the mean of the last minute."""
    return os.getloadavg()[0]


def _named(core: str) -> str:
    return "any processor" if core == ANY else f"processor {core}"


def become(core: str, urgency: str, command: Sequence[str]) -> None:
    """Take the place, and go on as the command."""
    if core != ANY:
        os.sched_setaffinity(0, {int(core)})
    if urgency == "realtime":
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    os.execvp(command[0], list(command))


if __name__ == "__main__":
    become(sys.argv[1], sys.argv[2], sys.argv[3:])
