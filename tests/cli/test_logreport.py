"""JSON logs: one object a line, each with a time, a level, a guest, an event and a message; takeovers explained."""

import io
import json
from typing import Any

from ftvm.cli.logreport import LogReport, level_of
from ftvm.events import (
    ArbiterTrouble,
    Committed,
    Event,
    HostFailed,
    Protected,
    RecordLearned,
    RoleChanged,
    Suspected,
    TookOver,
)
from ftvm.units import Nanos

MS = 1_000_000
TOOK = TookOver(
    at=Nanos(7),
    guest_id="vm1",
    generation=3,
    epoch=17,
    detection_ns=310 * MS,
    arbiter_ns=6 * MS,
    load_ns=2 * MS,
    outputs_emitted_again=3,
)


def log(*happened: Event) -> list[dict[str, Any]]:
    out = io.StringIO()
    report = LogReport(out, lambda: "2008-04-16T09:00:00.000000Z")
    for event in happened:
        report.event(event)
    report.close()
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_each_line_says_when_how_grave_whose_what_and_in_words() -> None:
    told = log(Protected(at=Nanos(7), guest_id="vm1", generation=2, standby="b1"))

    assert told == [
        {
            "time": "2008-04-16T09:00:00.000000Z",
            "level": "info",
            "guest": "vm1",
            "event": "Protected",
            "message": "protected: b1 stands by (generation 2)",
            "at": 7,
            "generation": 2,
            "standby": "b1",
        }
    ]


def test_a_takeover_is_followed_by_its_explanation() -> None:
    told = log(Suspected(at=Nanos(1), guest_id="vm1", silence_ns=310 * MS, limit_ns=300 * MS), TOOK)

    assert [line["event"] for line in told] == ["Suspected", "TookOver", "Takeover"]
    assert {"seen", "decided", "cost"} <= set(told[2])
    assert told[2]["message"].startswith("seen: the active was silent")


def test_a_guest_that_was_lost_to_a_takeover_is_explained_too_with_names_for_ids() -> None:
    told = log(
        RoleChanged(at=Nanos(1), guest_id="vm1", role="active", replica_id="a", reason=""),
        RecordLearned(at=Nanos(2), guest_id="vm1", generation=3, active="b#0123456789abcdef", standby=None),
        RoleChanged(at=Nanos(3), guest_id="vm1", role="empty", replica_id="a", reason=""),
    )

    assert [line["event"] for line in told] == ["RoleChanged", "RecordLearned", "RoleChanged", "GuestLost"]
    assert "to generation 3 (active b, standby none)" in told[-1]["message"]


def test_commits_are_not_logged_and_repetitions_once() -> None:
    trouble = ArbiterTrouble(at=Nanos(0), guest_id="vm1", error="it is away")
    commit = Committed(at=Nanos(0), guest_id="vm1", epoch=1, dirty_pages=1, sent_bytes=1, pause_ns=1)

    told = log(trouble, commit, trouble, trouble)

    assert [line["event"] for line in told] == ["ArbiterTrouble"]


def test_a_failed_host_is_an_error() -> None:
    assert level_of(HostFailed(at=Nanos(0), guest_id="vm1", error="")) == "error"
    assert level_of(TOOK) == "warning"
