"""A chaos run: shares the rounds among workers, each with its own pair, and adds up their results.

Leaves no process behind, whatever ends it, and no folder unless something was violated or the folders are to be kept.
"""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ftvm.errors import BrokenError, ConfigError
from ftvm.lab.chaos.values import CampaignOutcome, ChaosOptions, Round, Violation
from ftvm.lab.lines import JsonLine
from ftvm.lab.processes import Child, Children
from ftvm.runtime.clock import MonotonicClock
from ftvm.transport.endpoints import parse_endpoint
from ftvm.units import nanos_to_seconds, seconds_to_nanos

__all__ = ["run"]

_now: Final = MonotonicClock().now

PUMP_NS: Final = seconds_to_nanos(0.2)
ROUND_NS_MAX: Final = seconds_to_nanos(600)
"""A worker that is silent for this long waits without a bound: our bug."""

PROGRESS_NS: Final = seconds_to_nanos(10)
VIOLATIONS_MAX: Final = 200


def run(options: ChaosOptions, say: Callable[[str], None]) -> CampaignOutcome:
    """Play all rounds; `say` gets a line now and then. Raises ConfigError before anything is started."""
    if options.arbiter == "etcd" and shutil.which("etcd") is None:
        raise ConfigError("--arbiter etcd: etcd is not installed: apt-get install etcd-server")
    folder = _make_folder(options.rounds)
    campaign = _Campaign(options, folder, say)
    outcome = campaign.outcome
    try:
        campaign.run()
    finally:
        if options.keep or outcome.violations or outcome.trouble:
            outcome.folder = str(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _make_folder(rounds: int) -> Path:
    """Make the folder of all pairs. Raises ConfigError if the sockets in it would have longer paths than there are."""
    folder = Path(tempfile.mkdtemp(prefix="ftvm-chaos-"))
    try:
        parse_endpoint(f"ipc://{folder}/job-{rounds}/pair-{rounds}/A.sock")
    except ConfigError as wrong:
        folder.rmdir()
        raise ConfigError(
            f"the folder for temporary files is too long: set TMPDIR to a shorter one ({wrong})"
        ) from wrong
    return folder


class _Campaign:
    def __init__(self, options: ChaosOptions, folder: Path, say: Callable[[str], None]) -> None:
        self.outcome = CampaignOutcome(options=options)
        self._options = options
        self._folder = folder
        self._say = say
        self._children = Children()
        self._workers: list[Child] = []
        self._began_at = _now()
        self._told_at = self._heard_at = self._began_at

    def run(self) -> None:
        """Play."""
        self._say(f"starting {min(self._options.jobs, self._options.rounds)} pairs of real processes")
        try:
            for job in range(min(self._options.jobs, self._options.rounds)):
                self._start_worker(job)
            self._watch()
        except BrokenError as broken:
            self.outcome.trouble = str(broken)
        finally:
            self._children.close()
            self.outcome.seconds = nanos_to_seconds(_now() - self._began_at)

    def _start_worker(self, job: int) -> None:
        options = {
            "--rounds": str(self._options.rounds),
            "--seed": str(self._options.seed),
            "--job": str(job),
            "--jobs": str(min(self._options.jobs, self._options.rounds)),
            "--engines": ",".join(self._options.engines),
            "--arbiter": self._options.arbiter,
            "--folder": str(self._folder / f"job-{job}"),
        }
        words = [word for option in options.items() for word in option]
        command = [sys.executable, "-P", "-m", "ftvm.lab.chaos.worker", *words]
        index = len(self._workers)
        self._workers.append(self._children.start(f"worker {job}", command, lambda line: self._take(index, line)))

    def _watch(self) -> None:
        while any(worker.is_alive for worker in self._workers):
            self._children.pump(PUMP_NS)
            self._children.check()
            now = _now()
            if now - self._heard_at > ROUND_NS_MAX:
                raise BrokenError(f"no round ended for {nanos_to_seconds(ROUND_NS_MAX):g} s")
            if now - self._told_at > PROGRESS_NS:
                self._told_at = now
                self._say(self._progress())
        self._children.pump(0)
        self._children.check()

    def _take(self, index: int, line: JsonLine) -> None:
        outcome = self.outcome
        self._heard_at = _now()
        match line:
            case {"round": values}:
                outcome.rounds.append(Round(**values))
            case {"violation": values}:
                self._take_violation(Violation(**values))
            case {"isolation": how}:
                self._take_isolation(str(how))
            case {"requests": count}:
                outcome.requests += count
            case {"generations": count}:
                outcome.generations += count
            case {"done": True}:
                self._workers[index].is_expected_to_end = True
            case _:
                pass

    def _take_violation(self, violation: Violation) -> None:
        if len(self.outcome.violations) < VIOLATIONS_MAX:
            self.outcome.violations.append(violation)
        kind = "NOT IN TIME" if violation.is_late else "VIOLATION"
        self._say(f"{kind} in round {violation.round} ({violation.fault}, {violation.engine}): {violation.what}")

    def _take_isolation(self, how: str) -> None:
        self.outcome.isolation = how
        if self._options.arbiter == "etcd":
            self.outcome.skipped["disk full"] = "only the disk of a file arbiter can be filled"
        elif how != "namespaces":
            self.outcome.skipped["disk full"] = f"a small disk needs a separate mount: {how}"

    def _progress(self) -> str:
        outcome = self.outcome
        seconds = nanos_to_seconds(_now() - self._began_at)
        counts = f"{len(outcome.rounds)} of {self._options.rounds} rounds, {outcome.takeovers} takeovers"
        return f"{seconds:6.0f} s  {counts}, {len(outcome.violations)} violations"
