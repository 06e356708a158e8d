"""One pair's rounds, as a process: ``python -m ftvm.lab.chaos.worker``, started by campaign.py.

It moves into separate namespaces where it may, sets up a pair and plays its share of the rounds, several in one life
of the guest. It prints JSON lines: ``{"isolation": ...}`` once, ``{"round": {...}}`` and ``{"violation": {...}}`` as
they come (values.py), ``{"requests": N}`` and ``{"generations": N}`` when a guest's life is over, ``{"done": true}`` at
the end. A pair in which something broke is ended, and the next round begins with a new one.
"""

import argparse
import random
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Final

from ftvm.errors import BrokenError, FtvmError
from ftvm.lab.chaos.arbiters import BreakableArbiter, EtcdArbiter, FileArbiter
from ftvm.lab.chaos.faults import Fault, deal
from ftvm.lab.chaos.namespace import isolate
from ftvm.lab.chaos.pair import ChaosPair
from ftvm.lab.chaos.values import Round, Violation
from ftvm.lab.lines import say
from ftvm.lab.processes import Children, NotInTime
from ftvm.lab.stage import HOSTS, HostCommands
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import nanos_to_millis

__all__ = ["main"]

_now: Final = MonotonicClock().now

BROKEN_PAIRS_MAX: Final = 5
"""Beyond this many, another one tells nothing new."""

MEMORY: Final = "8M"
QUIET_SECONDS: Final = (0.0, 0.3)
"""How long the guest works before the next fault, so that it never comes at the same point of an epoch."""


class _Worker:
    """Plays rounds on one pair after another."""

    def __init__(self, options: argparse.Namespace, why_not_isolated: str | None) -> None:
        self._job: int = options.job
        self._folder = Path(options.folder)
        self._is_isolated = why_not_isolated is None
        self._arbiter_kind: str = options.arbiter
        self._has_disk = self._is_isolated and options.arbiter == "file"
        self._chance = random.Random(f"{options.seed}/{options.job}")
        faults = deal(random.Random(options.seed), has_disk=self._has_disk, count=options.rounds)
        self._rounds = list(enumerate(faults, start=1))[options.job :: options.jobs]
        names: list[str] = options.engines.split(",")
        shift = options.job % len(names)
        self._engines = cycle(names[shift:] + names[:shift])
        self._engine = ""
        self._children = Children()
        self._pair: ChaosPair | None = None
        self._told: set[str] = set()
        self._broken = 0

    def run(self) -> None:
        """Play all rounds, and judge the last guest."""
        last = self._rounds[-1]
        for number, fault in self._rounds:
            try:
                pair = self._pair or self._set_up()
                self._play(pair, number, fault)
                self._tell_findings(pair, number, fault)
                if (number, fault) == last and self._pair is not None:
                    self._end_guest(pair, number, fault, is_gone=False)
            except FtvmError as broken:
                self._tell_violation(number, fault, str(broken), is_late=isinstance(broken, NotInTime))
                self._tear_down()
                self._broken += 1
                if self._broken >= BROKEN_PAIRS_MAX:
                    raise BrokenError(f"{self._broken} pairs broke; the rest of the rounds was not played") from broken
        self._tear_down()
        say({"done": True})

    def close(self) -> None:
        """Leave no process."""
        self._children.end_now()
        self._children.close()

    # --- a round ---

    def _play(self, pair: ChaosPair, number: int, fault: Fault) -> None:
        pair.pass_time(self._chance.uniform(*QUIET_SECONDS))
        before = (len(pair.ledger.takeovers), pair.ledger.switchovers)
        engine = self._engine = pair.engine
        pair.note(f"round {number}: {fault.name} under {engine}")
        began_at = _now()
        fault.inject(pair, self._chance)
        ended_at = _now()
        loss = ("both stopped" if fault.vacates else "both killed") if fault.loses_guest else pair.wait_healed()
        gap_ms = None if loss else nanos_to_millis(pair.longest_gap(began_at))
        if loss is not None:
            self._restart_guest(pair, number, fault)
        healed_ms = nanos_to_millis(_now() - ended_at)
        outcome = Round(
            job=self._job,
            number=number,
            fault=fault.name,
            engine=engine,
            takeovers=len(pair.ledger.takeovers) - before[0],
            switchovers=pair.ledger.switchovers - before[1],
            gap_ms=None if gap_ms is None else round(gap_ms, 1),
            healed_ms=round(healed_ms, 1),
            loss=loss,
        )
        say({"round": asdict(outcome)})

    def _restart_guest(self, pair: ChaosPair, number: int, fault: Fault) -> None:
        """Do what an operator does who knows that the guest is lost."""
        pair.kill_all()
        self._end_guest(pair, number, fault, is_gone=True)
        if fault.loses_guest and not fault.vacates:
            said = pair.refusal_of_a_primary()
            if "already in the record" not in said:
                self._tell_violation(number, fault, f"a primary was not refused after its pair was lost: {said}")
        self._start_guest(pair, force=True)

    def _end_guest(self, pair: ChaosPair, number: int, fault: Fault, *, is_gone: bool) -> None:
        verdict = pair.end_guest(is_gone=is_gone)
        findings = [str(finding) for finding in verdict["findings"]]
        for finding in findings:
            self._tell_violation(number, fault, finding)
        if not is_gone and verdict["unanswered"]:
            unanswered = f"{verdict['unanswered']} requests of the audit were not answered in time"
            self._tell_violation(number, fault, unanswered, is_late=True)
        pair.witness.check_changes(pair.arbiter.all_records())
        self._tell_findings(pair, number, fault)
        say({"requests": verdict["requests_acknowledged"]})

    # --- pairs ---

    def _set_up(self) -> ChaosPair:
        folder = self._folder / f"pair-{self._broken}"
        folder.mkdir(parents=True)
        self._told.clear()
        arbiter: BreakableArbiter
        if self._arbiter_kind == "file":
            arbiter = FileArbiter(folder, has_disk=self._has_disk)
        else:
            arbiter = EtcdArbiter(folder, self._children, self._children.pump)
        self._pair = ChaosPair(self._children, arbiter, folder, HostCommands(memory=MEMORY), self._engines)
        self._pair.start()
        self._start_guest(self._pair, force=False)
        return self._pair

    def _start_guest(self, pair: ChaosPair, *, force: bool) -> None:
        pair.start_guest(self._chance.getrandbits(32), self._chance.choice(HOSTS), force=force)
        pair.wait_healed(can_be_lost=False)

    def _tear_down(self) -> None:
        if self._pair is not None:
            say({"generations": max(self._pair.witness.records, default=0)})
        self._pair = None
        self.close()
        self._children = Children()

    # --- telling ---

    def _tell_findings(self, pair: ChaosPair, number: int, fault: Fault) -> None:
        for finding in pair.witness.findings:
            if finding not in self._told:
                self._told.add(finding)
                self._tell_violation(number, fault, finding)

    def _tell_violation(self, number: int, fault: Fault, what: str, *, is_late: bool = False) -> None:
        log = self._folder / f"round-{number}.log"
        if self._pair is not None:
            self._pair.write_log(log)
        violation = Violation(
            job=self._job,
            round=number,
            fault=fault.name,
            engine=self._engine,
            what=what,
            folder=str(self._folder),
            is_late=is_late,
        )
        say({"violation": asdict(violation)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Play a share of the rounds; return 0 if they could all be played."""
    parser = argparse.ArgumentParser(prog="python -m ftvm.lab.chaos.worker", description="One pair's rounds.")
    for name in ("--rounds", "--seed", "--job", "--jobs"):
        parser.add_argument(name, type=int, required=True)
    for name in ("--engines", "--arbiter", "--folder"):
        parser.add_argument(name, required=True)
    options = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    why_not = isolate()
    say({"isolation": why_not or "namespaces"})
    worker = _Worker(options, why_not)
    try:
        worker.run()
    except FtvmError as broken:
        print(f"chaos: {broken}", file=sys.stderr)
        return 1
    finally:
        worker.close()
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
