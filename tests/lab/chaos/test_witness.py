import pytest

from ftvm.interfaces import Record
from ftvm.lab.chaos.witness import Witness, change_between

VACANT = Record(3, None, None)
SOLO = Record(3, "x", None)
PAIR = Record(3, "x", "y")


def status(role: str, replica: str, record: Record) -> dict[str, object]:
    return {
        "role": role,
        "replica_id": replica,
        "generation": record.generation,
        "active": record.active,
        "standby": record.standby,
    }


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        (Record(0, None, None), Record(1, None, None), "VACATE"),
        (VACANT, Record(4, "x", None), "START"),
        (SOLO, Record(4, "x", "y"), "ADD"),
        (PAIR, Record(4, "x", "z"), "ADD"),
        (PAIR, Record(4, "x", None), "DROP"),
        (PAIR, Record(4, "y", None), "TAKE"),
        (PAIR, Record(4, "y", "x"), "SWITCH"),
        (PAIR, Record(4, None, None), "VACATE"),
    ],
)
def test_each_change_of_the_protocol_is_known_by_its_name(before: Record, after: Record, change: str) -> None:
    assert change_between(before, after) == change


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (PAIR, Record(5, "y", None)),  # a generation is missing
        (PAIR, Record(3, "y", None)),
        (PAIR, Record(4, "z", None)),  # neither the active nor its standby
        (SOLO, Record(4, "y", None)),  # nobody may take from who is alone
        (PAIR, Record(4, "y", "z")),
        (VACANT, Record(4, "x", "y")),
        (SOLO, Record(4, "x", "x")),
    ],
)
def test_what_no_rule_allows_is_no_change(before: Record, after: Record) -> None:
    assert change_between(before, after) is None


def test_a_lawful_life_of_a_record_gives_no_finding() -> None:
    witness = Witness()

    witness.check_changes([Record(1, "x", None), Record(2, "x", "y"), Record(3, "y", None), Record(4, "y", "z")])

    assert witness.findings == []


def test_an_id_that_left_the_record_must_not_return() -> None:
    witness = Witness()

    witness.check_changes([Record(1, "x", None), Record(2, "x", "y"), Record(3, "x", None), Record(4, "x", "y")])

    (finding,) = witness.findings
    assert finding.startswith("y left the record before")


def test_a_change_that_skips_the_rules_is_found() -> None:
    witness = Witness()

    witness.check_changes([Record(1, "x", None), Record(2, "y", None)])

    assert "no rule leads from" in witness.findings[0]


def test_two_records_of_one_generation_are_found_whoever_tells_them() -> None:
    witness = Witness()
    witness.on_host_line("A", {"event": "RecordLearned", "generation": 4, "active": "x", "standby": None})

    witness.on_host_line("B", {"status": status("standby", "y", Record(4, "y", None))})

    (finding,) = witness.findings
    assert "the status of host B" in finding


def test_two_that_run_the_guest_in_one_generation_are_found() -> None:
    witness = Witness()
    witness.on_host_line("A", {"status": status("active", "x", PAIR)})

    witness.on_host_line("B", {"status": status("active", "y", PAIR)})

    (finding,) = witness.findings
    assert finding.startswith("host B runs the guest as y")


def test_an_old_active_that_does_not_know_better_yet_is_in_order() -> None:
    witness = Witness()

    witness.on_host_line("A", {"status": status("active", "x", PAIR)})
    witness.on_host_line("B", {"status": status("active", "y", Record(4, "y", None))})
    witness.on_host_line("A", {"status": status("active", "x", PAIR)})

    assert witness.findings == []


@pytest.mark.parametrize("event", ["Diverged", "PeerMisbehaved", "HostFailed"])
def test_what_no_fault_explains_is_found(event: str) -> None:
    witness = Witness()

    witness.on_host_line("A", {"event": event, "error": "the page digest differs"})

    assert "the page digest differs" in witness.findings[0]


def test_a_host_without_a_record_yet_says_nothing_about_generation_0() -> None:
    witness = Witness()

    witness.on_host_line("A", {"status": status("empty", "x", Record(0, None, None))})

    assert witness.records == {}
