"""One set-up of real processes: two hosts with a relay between them, an arbiter, a switch, and a client that never
stops asking; and what can be done to it.

A fault (faults.py) calls the verbs here and knows nothing else. Every wait has a bound; what does not come in time, and
a process that ends unasked, is a BrokenError with the last words of both hosts. All that was heard is kept for a while,
to be written down where something went wrong.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from ftvm.errors import BrokenError
from ftvm.lab.chaos.arbiters import BreakableArbiter
from ftvm.lab.chaos.witness import Witness
from ftvm.lab.hostprocesses import HostProcesses
from ftvm.lab.ledger import HostFacts, Ledger
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Child, Children
from ftvm.lab.stage import HOSTS, HostCommands, Stage
from ftvm.runtime.clock import MonotonicClock
from ftvm.service.controlline import ControlLine
from ftvm.units import Nanos, nanos_to_seconds, seconds_to_nanos

__all__ = ["ChaosPair", "other"]

_now: Final = MonotonicClock().now

T = TypeVar("T")

START_NS: Final = seconds_to_nanos(90)
HEAL_NS: Final = seconds_to_nanos(60)
"""A takeover, a process start and a first copy on a machine that has other work to do: some seconds at most."""
AUDIT_NS: Final = seconds_to_nanos(60)
COMMAND_NS: Final = seconds_to_nanos(60)

LOSS_CHECK_NS: Final = seconds_to_nanos(2)
"""How often the arbiter is asked whether the guest is lost, while nothing else heals."""

STATUSES_AFTER: Final = 2
"""So many statuses each host must have given since a fault before it is believed to be over it: the first may have been
on its way."""

RELAY_DELAY_MS: Final = 1.0
CLIENT_OPTIONS: Final = ("--clients", "5", "--pace", "30", "--patience", "500")
"""Enough to catch a lost write at any moment, and no more: several pairs share one machine, and a Kemari guest stands
still for each answer, to a repeated request too. On a busy machine it gave twenty answers a second; with more repeated
requests than that it would never catch up.
"""

LINES_KEPT: Final = 20_000

CONNECT_SECONDS: Final = 10.0
SWITCH_SECONDS: Final = 20.0


class ChaosPair:
    """The processes of one set-up, from the first guest to the last."""

    def __init__(
        self,
        children: Children,
        arbiter: BreakableArbiter,
        folder: Path,
        commands: HostCommands,
        engines: Iterator[str],
    ) -> None:
        """`engines` gives each host that starts the engine with which it protects, should it become active."""
        self.arbiter = arbiter
        self.witness = Witness()
        self.ledger = Ledger(HOSTS)
        self.killed: set[str] = set()
        """Ids of replicas whose process was ended here."""
        self._commands = commands
        self._engines = engines
        self._children = children
        self._stage = Stage.prepare(folder, arbiter=arbiter.url, has_relay=True)
        self._hosts = HostProcesses(children, self._stage)
        self._client: Child | None = None
        self._relay: Child | None = None
        self._line: ControlLine | None = None
        self._heard: deque[str] = deque(maxlen=LINES_KEPT)

    # --- beginning and end ---

    def start(self) -> None:
        """Start everything but hosts and client."""
        self._hosts.make_keys(self._commands)
        self._children.start("the switch", self._stage.switch_command(), self.ledger.on_switch_line)
        self._relay = self._hosts.start_relay(RELAY_DELAY_MS)
        self.wait_for(lambda: self.ledger.is_switch_ready or None, START_NS, "the switch is ready")

    def start_guest(self, seed: int, primary: str, *, force: bool) -> None:
        """Start a guest from nothing, and a client for it; `force` is the operator's word that the old one is
        dead."""
        command = self._stage.init_command(self._commands, force=force)
        self._children.run("init", command, COMMAND_NS)
        self.start_host(primary, "primary")
        self.start_host(other(primary), "standby")
        client = self._stage.client_command(seed, *CLIENT_OPTIONS)
        self.ledger.verdict = None
        self._client = self._children.start("the client", client, self.ledger.on_client_line, listens=True)

    def end_guest(self, *, is_gone: bool) -> JsonLine:
        """Have the client judge all that it was answered, after an audit if the guest still runs; return its
        verdict."""
        client, self._client = self._client, None
        if client is None:
            raise BrokenError("there is no client to ask for a verdict")
        client.is_expected_to_end = True
        client.tell({"judge": True} if is_gone else {"stop": True})
        verdict = self.wait_for(lambda: self.ledger.verdict, AUDIT_NS, "the client gives its verdict")
        self._children.bury(client)
        return verdict

    def refusal_of_a_primary(self) -> str:
        """Start a primary where the record names another active, which must be refused; return what it said."""
        facts = self.ledger.host_started(HOSTS[0])
        command = self._stage.host_command(self._commands, HOSTS[0], "primary")
        said = f"started as {facts.name}"
        try:
            self._children.run("a primary that must be refused", command, COMMAND_NS)
        except BrokenError as refused:
            said = str(refused)
        self.ledger.host_killed(HOSTS[0])
        return said

    # --- what can be done to it ---

    @property
    def active(self) -> str:
        """The host where the guest runs."""
        found = self.ledger.active
        if found is None:
            raise BrokenError(f"no host, or both, say that the guest runs there\n{self.last_words()}")
        return found.name

    @property
    def engine(self) -> str:
        """The engine that protects the guest."""
        return self.ledger.hosts[self.active].engine

    def start_host(self, host: str, role: str = "standby") -> None:
        """Start a host process."""
        facts = self.ledger.host_started(host)
        engine = next(self._engines)

        def on_line(line: JsonLine) -> None:
            self._note(host, line)
            self.witness.on_host_line(host, line)
            self.ledger.on_host_line(facts, line)

        self._hosts.start(host, role, replace(self._commands, engine=engine), on_line)
        self._note(host, {"chaos": f"started as {role}, with {engine}"})

    def kill(self, host: str) -> None:
        """Kill a host process, as a power cut does."""
        self._note(host, {"chaos": "killed"})
        self._end(host, Child.kill)

    def kill_all(self) -> None:
        """Kill the hosts that are left."""
        for host in list(self._hosts.running):
            self.kill(host)

    def ask_to_end(self, host: str) -> None:
        """Send a host SIGTERM, and wait until it is gone."""
        self._note(host, {"chaos": "asked to end"})
        self._end(host, Child.ask_to_end)

    def begin_to_end(self, host: str) -> None:
        """Send a host SIGTERM, and do not wait."""
        self._note(host, {"chaos": "asked to end"})
        self._hosts.running[host].ask_to_end()

    def wait_ended(self, host: str) -> None:
        """Wait until a host is gone that was asked to end."""
        self._end(host, lambda child: None)  # noqa: ARG005

    def ask_to_switch_over(self, host: str) -> None:
        """Ask a host to hand the guest over to its standby, as `ftvm ctl switchover` does, and wait for nothing."""
        self._note(host, {"chaos": "asked to switch over"})
        if self._line is not None:
            self._line.close()
        self._line = ControlLine(self._stage.control_path(host), CONNECT_SECONDS)
        self._line.say({"do": "switchover", "seconds": SWITCH_SECONDS})

    def wait_switched_over(self) -> None:
        """Wait for what came of it. Raises the error with which the host refused it or called it off."""
        line = self._line
        if line is None:
            raise BrokenError("nobody was asked to switch over")
        self.wait_for(line.poll, HEAL_NS, "a switchover is answered")

    def freeze(self, host: str) -> None:
        """Freeze a host process."""
        self._note(host, {"chaos": "frozen"})
        self._hosts.running[host].freeze()

    def wake(self, host: str) -> None:
        """Let a frozen host go on."""
        self._note(host, {"chaos": "woken"})
        self._hosts.running[host].wake()

    def tell_relay(self, **command: object) -> None:
        """Cut, heal, reset or delay the link; see ftvm.lab.relay."""
        self._note("relay", dict(command))
        if self._relay is not None:
            self._relay.tell(command)

    def note(self, what: str) -> None:
        """Write down what a fault does beside the verbs above."""
        self._note("chaos", {"chaos": what})

    def pass_time(self, seconds: float) -> None:
        """Let everything run for a while."""
        self._hosts.pass_time(seconds)

    # --- how it stands ---

    def wait_healed(self, *, can_be_lost: bool = True) -> str | None:
        """Wait until the guest is protected and answers again; return why it is lost instead, None if it lives.

        It is lost where the record names no standby and an active whose process was ended here.
        """
        before = {host: self.ledger.hosts[host].status_count for host in HOSTS}
        look_at = [_now() + LOSS_CHECK_NS]

        def look() -> str | None:
            if self._is_protected(before):
                return ""
            if not can_be_lost or _now() < look_at[0]:
                return None
            look_at[0] = _now() + LOSS_CHECK_NS
            return self._loss()

        loss = self.wait_for(look, HEAL_NS, "the guest is protected again")
        if loss:
            return loss
        asked_at = _now()
        self._ask_client(watch=asked_at)
        self.wait_for(lambda: self.ledger.answer_since(asked_at), HEAL_NS, "the guest answers again")
        return None

    def longest_gap(self, since: Nanos) -> int:
        """Return the longest time without an answer since then, in nanoseconds."""
        self._ask_client(gap=since)
        return self.wait_for(lambda: self.ledger.gap_since(since), HEAL_NS, "the client tells its longest wait")

    def wait_for(self, look: Callable[[], T | None], limit_ns: int, what: str) -> T:
        """See Children.wait_for."""
        return self._children.wait_for(look, limit_ns, what, explain=self.last_words)

    def last_words(self) -> str:
        """Return what both hosts said last."""
        facts = "\n".join(str(self.ledger.hosts[host]) for host in HOSTS)
        return f"{facts}\n{self._hosts.last_words()}"

    def write_log(self, path: Path) -> None:
        """Write down all that was heard lately."""
        path.write_text("\n".join([*self._heard, self.last_words(), ""]), encoding="utf-8")

    def _is_protected(self, before: dict[str, int]) -> bool:
        active = self.ledger.active
        if active is None or not active.is_protected or active.link != "protected":
            return False
        standby = self.ledger.hosts[other(active.name)]
        is_told = all(self.ledger.hosts[host].status_count >= before[host] + STATUSES_AFTER for host in HOSTS)
        return is_told and standby.role == "standby" and standby.replica == active.standby

    def _loss(self) -> str | None:
        record = self.arbiter.record()
        if record.active is None:
            return "vacated"
        return "alone when killed" if record.standby is None and record.active in self.killed else None

    def _end(self, host: str, how: Callable[[Child], None]) -> None:
        """End a host process in some way; whatever it said before still counts."""
        child = self._hosts.running[host]
        child.is_expected_to_end = True
        how(child)
        self._hosts.wait_ended(host)
        facts: HostFacts = self.ledger.hosts[host]
        self.killed.add(facts.replica)
        self.ledger.host_killed(host)

    def _ask_client(self, **command: int) -> None:
        if self._client is not None:
            self._client.tell(command)

    def _note(self, who: str, line: JsonLine) -> None:
        if line.get("event") != "Committed":
            self._heard.append(f"{nanos_to_seconds(_now()):.3f} {who} {json.dumps(line)}")


def other(host: str) -> str:
    """Return the name of the other host."""
    return HOSTS[1 - HOSTS.index(host)]
