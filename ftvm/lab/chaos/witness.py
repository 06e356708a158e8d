"""What must hold of all that hosts say and the arbiter keeps: the safety rules, seen from outside.

* A generation has one record: whoever speaks of it says the same.
* Each record follows from the one before by a change that docs/protocol.md allows, and an id that left never returns.
* Who says that the guest runs here is the active of the record that it knows (at most one active per generation).
* In a pair of honest hosts nobody misbehaves, diverges or fails.

Pure: it takes lines and records and collects `findings`.
"""

from collections.abc import Iterable
from typing import Final

from ftvm.interfaces import Record
from ftvm.lab.lines import JsonLine

__all__ = ["Witness", "change_between"]

ALARMS: Final = ("Diverged", "PeerMisbehaved", "HostFailed")
"""Events that no fault of a chaos run explains."""

FINDINGS_KEPT: Final = 100


class Witness:
    """Takes all lines and records, and collects what was wrong."""

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.records: dict[int, Record] = {}

    def on_host_line(self, host: str, line: JsonLine) -> None:
        """Take a line of a host process."""
        if "status" in line:
            self._take_status(host, line["status"])
        elif line.get("event") == "RecordLearned":
            self.on_record(f"host {host}", Record(line["generation"], line["active"], line["standby"]))
        elif line.get("event") in ALARMS:
            self._find(f"host {host} reported {line}")

    def on_record(self, source: str, record: Record) -> None:
        """Take what somebody says a generation's record is."""
        known = self.records.setdefault(record.generation, record)
        if known != record:
            self._find(f"{source} knows {record}, but that generation was {known}")

    def check_changes(self, records: Iterable[Record]) -> None:
        """Check all records of an arbiter, oldest first: each change, and that no id returns."""
        before = Record(0, None, None)
        gone: set[str] = set()
        for record in records:
            self.on_record("the arbiter", record)
            if change_between(before, record) is None:
                self._find(f"no rule leads from {before} to {record}")
            back = _ids(record) & gone
            if back:
                self._find(f"{', '.join(sorted(back))} left the record before, and is back in {record}")
            gone = (gone - back) | (_ids(before) - _ids(record))
            before = record

    def _take_status(self, host: str, status: JsonLine) -> None:
        if status["role"] == "active" and status["active"] != status["replica_id"]:
            self._find(f"host {host} runs the guest as {status['replica_id']}, but the record it knows is {status}")
        if status["generation"] > 0:
            record = Record(status["generation"], status["active"], status["standby"])
            self.on_record(f"the status of host {host}", record)

    def _find(self, finding: str) -> None:
        if len(self.findings) < FINDINGS_KEPT:
            self.findings.append(finding)


def change_between(before: Record, after: Record) -> str | None:
    """Return the name of the change that led from one record to the next, None if no rule allows it."""
    if after.generation != before.generation + 1 or (after.active is not None and after.active == after.standby):
        return None
    changes: dict[str, bool] = {
        "VACATE": after.active is None and after.standby is None,
        "START": before.active is None and after.active is not None and after.standby is None,
        "ADD": before.active is not None and before.active == after.active and after.standby is not None,
        "DROP": before.active is not None and before.active == after.active and after.standby is None,
        "TAKE": before.standby is not None and before.standby == after.active and after.standby is None,
        "SWITCH": before.standby is not None and (before.standby, before.active) == (after.active, after.standby),
    }
    return next((name for name, is_it in changes.items() if is_it), None)


def _ids(record: Record) -> set[str]:
    return {replica for replica in (record.active, record.standby) if replica is not None}
