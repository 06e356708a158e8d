from typing import Any

import pytest

from ftvm.lab.ledger import Ledger, Move, Takeover

MAC = "52:54:00:77:00:02"


def status(role: str, **changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": role, "generation": 2, "epoch": 7, "standby": None, "lag_ms": 1.5}
    return {"status": fields | changes}


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger(("A", "B"))
    ledger.on_host_line(ledger.hosts["A"], status("active", standby="replica-b"))
    ledger.on_host_line(ledger.hosts["B"], status("standby", standby="replica-b"))
    return ledger


def committed(epoch: int, pause_ns: int) -> dict[str, Any]:
    return {"event": "Committed", "epoch": epoch, "dirty_pages": 3, "sent_bytes": 500, "pause_ns": pause_ns}


def test_active_host_with_a_standby_in_the_record_is_protected(ledger: Ledger) -> None:
    active = ledger.active

    assert active is not None
    assert (active.name, active.is_protected, active.epoch, active.lag_ms) == ("A", True, 7, 1.5)


def test_standby_is_never_called_protected(ledger: Ledger) -> None:
    assert not ledger.hosts["B"].is_protected


def test_killed_host_runs_nothing(ledger: Ledger) -> None:
    ledger.host_killed("A")

    assert ledger.active is None
    assert ledger.hosts["A"].role == "killed"


def test_last_words_of_a_killed_host_count_but_give_it_no_role(ledger: Ledger) -> None:
    dying = ledger.hosts["A"]
    ledger.host_killed("A")

    ledger.on_host_line(dying, committed(8, 200_000))
    ledger.on_host_line(dying, status("active"))

    assert ledger.totals.checkpoints == 1
    assert ledger.active is None


def test_two_hosts_that_both_say_active_leave_the_question_open(ledger: Ledger) -> None:
    ledger.on_host_line(ledger.hosts["B"], status("active"))

    assert ledger.active is None


def test_survivor_is_alone_until_the_record_names_a_standby(ledger: Ledger) -> None:
    ledger.host_killed("A")
    ledger.on_host_line(
        ledger.hosts["B"], {"event": "RecordLearned", "generation": 3, "active": "replica-b", "standby": None}
    )
    ledger.on_host_line(
        ledger.hosts["B"],
        {"event": "RoleChanged", "role": "active", "replica_id": "replica-b", "reason": "took over"},
    )
    assert ledger.active is ledger.hosts["B"]
    assert not ledger.hosts["B"].is_protected

    ledger.on_host_line(ledger.hosts["B"], {"event": "Protected", "generation": 4, "standby": "replica-c"})

    assert ledger.hosts["B"].is_protected


def test_commits_count_once_on_each_side(ledger: Ledger) -> None:
    ledger.on_host_line(ledger.hosts["A"], committed(8, 200_000))
    ledger.on_host_line(ledger.hosts["B"], committed(8, 0))
    ledger.on_host_line(ledger.hosts["A"], committed(9, 400_000))

    totals = ledger.totals
    assert (totals.checkpoints, totals.digests_compared) == (2, 1)
    assert (totals.bytes_sent, totals.bytes_raw) == (1_000, 2 * 3 * 4096)
    assert (totals.pause_us(0), totals.pause_us(99)) == (200.0, 400.0)


def test_no_pause_has_no_percentile_but_zero() -> None:
    assert Ledger(("A",)).totals.pause_us(99) == 0.0


def test_takeover_is_found_by_host_and_order(ledger: Ledger) -> None:
    line = {"event": "TookOver", "detection_ns": 5, "arbiter_ns": 6, "load_ns": 7, "outputs_emitted_again": 8}
    ledger.on_host_line(ledger.hosts["B"], line | {"generation": 3})

    assert ledger.takeover_of("A", 0) is None
    assert ledger.takeover_of("B", 1) is None
    assert ledger.takeover_of("B", 0) == Takeover(
        host="B", detection_ns=5, arbiter_ns=6, load_ns=7, outputs_emitted_again=8
    )


def test_move_is_found_by_address_port_and_time(ledger: Ledger) -> None:
    for at in (10, 20, 30):
        ledger.on_switch_line({"moved": MAC, "port": 1, "port_before": 0, "at": at})

    assert ledger.move_since(15, MAC, 1) == Move(mac=MAC, port=1, at=20)
    assert ledger.move_since(15, MAC, 0) is None
    assert ledger.move_since(31, MAC, 1) is None


def test_client_and_switch_are_heard(ledger: Ledger) -> None:
    ledger.on_switch_line({"switch": "ready", "ports": 3})
    ledger.on_client_line({"status": {"requests_acknowledged": 12}})
    ledger.on_client_line({"watch": 5, "answered_at": 9})
    ledger.on_client_line({"verdict": {"contradicted": 0}})

    assert ledger.is_switch_ready
    assert ledger.acknowledged == 12
    assert (ledger.answer_since(5), ledger.answer_since(6)) == (9, None)
    assert ledger.verdict == {"contradicted": 0}


def test_events_for_people_change_nothing(ledger: Ledger) -> None:
    ledger.on_host_line(ledger.hosts["A"], {"event": "ArbiterTrouble", "error": "slow"})

    assert ledger.active is ledger.hosts["A"]
