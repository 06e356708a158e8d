"""Every event has its own sentence, that says what is in it."""

from dataclasses import replace
from typing import Any

import pytest

from ftvm import events
from ftvm.cli.sentences import EngineWord, describe
from ftvm.events import EngineChanged, TookOver
from ftvm.units import Nanos

from ..service.fakes import STATUS

SAMPLES: dict[str, Any] = {"pages": (1,), "agreed": None, "seen": None, "guest_id": "vm1", "devices": False}
NAMES = sorted(set(events.__all__) - {"Event"})


@pytest.mark.parametrize("name", NAMES)
def test_every_event_has_a_sentence(name: str) -> None:
    kind = getattr(events, name)
    values: dict[str, Any] = {field: SAMPLES.get(field, 1) for field in kind.__dataclass_fields__}

    assert describe(kind(**values))


def test_two_hosts_of_one_name_are_told_to_take_different_ones() -> None:
    """Regression: `active a, standby a`, and nobody could tell which was which."""
    twins = events.RecordLearned(
        at=Nanos(0), guest_id="vm1", generation=2, active=f"a#{'1' * 16}", standby=f"a#{'2' * 16}"
    )
    alone = replace(twins, standby=None)

    assert describe(twins).endswith("active a, standby a: both hosts have this name; give each its own with --node")
    assert describe(alone).endswith("active a, standby none")


def test_a_warning_and_a_refused_connection_say_so_once() -> None:
    """Regression: `warning: warning: the disk ...`, `connection refused: refused a connection from ...`."""
    warned = events.GuestWarned(at=Nanos(0), guest_id="vm1", reason="the disk a.img was deleted")
    refused = events.ConnectionRefused(at=Nanos(0), guest_id="vm1", reason="refused a connection from 10.0.0.1")

    assert [describe(warned), describe(refused)] == [warned.reason, refused.reason]


def test_an_engine_whose_interval_is_not_known_is_told_without() -> None:
    changed = EngineChanged(at=Nanos(0), guest_id="vm1", before="remus", engine="hybrid")

    assert describe(changed) == "engine: hybrid instead of remus"


def test_a_suspicion_tells_the_silence_or_why_it_did_not_wait_for_it() -> None:
    silent = events.Suspected(at=Nanos(0), guest_id="vm1", silence_ns=310_000_000, limit_ns=300_000_000)
    gone = events.Suspected(at=Nanos(0), guest_id="vm1", silence_ns=0, limit_ns=0, reason="its process is gone")

    assert describe(silent) == "suspected the peer: silent for 310 ms (limit 300 ms)"
    assert describe(gone) == "suspected the peer: its process is gone"


def test_a_stall_tells_what_the_host_waited_for_if_it_did() -> None:
    """Regression: who had waited for QEMU was told to give the host more processor time."""
    busy = events.HostStalled(at=Nanos(0), guest_id="vm1", stall_ns=510_000_000)
    waited = replace(busy, waited="QEMU has not answered stop for 0.5 s")

    assert describe(busy).startswith("this host stalled for 510 ms: it was stopped, or is too busy; ")
    assert describe(waited) == (
        "this host did nothing else for 510 ms, as QEMU has not answered stop for 0.5 s; silence of the peer meanwhile "
        "does not count. If it happens again, look at that process"
    )


def test_a_takeover_tells_what_it_cost() -> None:
    took = TookOver(
        at=Nanos(0),
        guest_id="vm1",
        generation=3,
        epoch=17,
        detection_ns=310_000_000,
        arbiter_ns=6_000_000,
        load_ns=2_000_000,
        outputs_emitted_again=3,
    )

    assert describe(took) == (
        "took over at epoch 17, generation 3: noticed in 310 ms, claimed in 6.0 ms (loaded in 2.0 ms), "
        "3 outputs emitted again"
    )


def test_a_switchover_that_failed_says_that_the_guest_goes_on_unless_its_host_stops() -> None:
    reason = "it took too long"
    asked = events.SwitchFailed(at=Nanos(0), guest_id="vm1", reason=reason)
    stopping = events.SwitchFailed(at=Nanos(0), guest_id="vm1", reason=reason, is_stopping=True)

    assert describe(asked) == "the switchover failed; the guest still runs where it was: it took too long"
    assert describe(stopping) == "the guest could not be handed over: it took too long"


def test_a_guest_that_came_over_tells_once_under_what_it_runs_now() -> None:
    """Regression: an interval that an operator had set was gone after a takeover without a word."""
    word = EngineWord()
    before = word.word(STATUS)
    word.note(events.SwitchedHere(at=Nanos(0), guest_id="vm1", generation=3, epoch=5, wait_ns=1))

    told = [word.word(STATUS), word.word(STATUS)]

    assert before is None
    assert told[0] is not None
    assert told[0].startswith("the guest runs here under remus (interval 25 ms), as this host is set;")
    assert told[1] is None
