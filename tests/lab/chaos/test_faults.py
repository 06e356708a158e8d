from collections import Counter
from random import Random
from typing import Any

import pytest

from ftvm.errors import BrokenError, SwitchoverFailed
from ftvm.interfaces import Record
from ftvm.lab.chaos.faults import FAULTS, Fault, deal
from ftvm.lab.stage import HOSTS


class FakePair:
    """Takes the verbs down and keeps the book of what is still broken."""

    def __init__(self) -> None:
        self.running = set(HOSTS)
        self.ending: set[str] = set()
        self.frozen: set[str] = set()
        self.is_cut = False
        self.delay_ms = 1.0
        self.is_arbiter_broken = False
        self.active = HOSTS[0]
        self.arbiter = self
        self.deeds = 0

    def kill(self, host: str) -> None:
        self.running.remove(host)
        self.frozen.discard(host)
        self.deeds += 1

    ask_to_end = kill

    def begin_to_end(self, host: str) -> None:
        assert host in self.running
        self.ending.add(host)

    def wait_ended(self, host: str) -> None:
        self.ending.remove(host)
        self.kill(host)

    def record(self) -> Record:
        return Record(7, None, None)

    def start_host(self, host: str, role: str = "standby") -> None:
        assert host not in self.running, "one process in each slot"
        assert not self.is_arbiter_broken, "a host cannot start without its arbiter"
        assert role == "standby"
        self.running.add(host)

    def freeze(self, host: str) -> None:
        self.frozen.add(host)
        self.deeds += 1

    def wake(self, host: str) -> None:
        self.frozen.remove(host)

    def tell_relay(self, **command: Any) -> None:
        self.is_cut = bool(command.get("cut", self.is_cut))
        self.delay_ms = command.get("delay_ms", self.delay_ms)
        self.deeds += 1

    def break_down(self, chance: Random) -> str:
        del chance
        self.is_arbiter_broken = True
        self.deeds += 1
        return "gone"

    def fill(self) -> None:
        self.is_arbiter_broken = True

    def mend(self) -> None:
        self.is_arbiter_broken = False

    def last_words(self) -> str:
        return ""

    def note(self, what: str) -> None:
        assert what

    def ask_to_switch_over(self, host: str) -> None:
        assert host == self.active
        self.deeds += 1

    def wait_switched_over(self) -> None:
        """It is."""

    def wait_healed(self) -> None:
        """It is."""

    def pass_time(self, seconds: float) -> None:
        assert 0 <= seconds < 4


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("seed", range(5))
def test_a_fault_does_something_and_leaves_nothing_broken(fault: Fault, seed: int) -> None:
    pair = FakePair()

    fault.inject(pair, Random(seed))  # type: ignore[arg-type]

    assert pair.deeds > 0
    assert pair.running == (set() if fault.loses_guest else set(HOSTS))
    assert (pair.frozen, pair.is_cut, pair.delay_ms, pair.is_arbiter_broken) == (set(), False, 1.0, False)


@pytest.mark.parametrize("count", [1, len(FAULTS), 3 * len(FAULTS) + 5])
def test_every_kind_is_dealt_as_often_as_any_other(count: int) -> None:
    dealt = deal(Random(1), has_disk=True, count=count)

    counts = Counter(fault.name for fault in dealt)
    assert len(dealt) == count
    assert all(count // len(FAULTS) <= counts[fault.name] <= count // len(FAULTS) + 1 for fault in FAULTS)


def test_a_deal_is_the_same_for_the_same_seed() -> None:
    assert deal(Random(3), has_disk=True, count=50) == deal(Random(3), has_disk=True, count=50)
    assert deal(Random(3), has_disk=True, count=50) != deal(Random(4), has_disk=True, count=50)


def test_without_a_disk_none_is_filled() -> None:
    assert not any(fault.needs_disk for fault in deal(Random(1), has_disk=False, count=100))


def test_no_two_kinds_share_a_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_record_that_names_a_host_when_both_were_stopped_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = [fault for fault in FAULTS if fault.name == "leave both"]
    monkeypatch.setattr(FakePair, "record", lambda _: Record(7, "a1", None))

    with pytest.raises(BrokenError, match="still names one"):
        fault.inject(FakePair(), Random(1))  # type: ignore[arg-type]


def test_a_healthy_pair_that_does_not_switch_over_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    (fault,) = [fault for fault in FAULTS if fault.name == "switch over"]

    def refused(_: FakePair) -> None:
        raise SwitchoverFailed("the standby is slow")

    monkeypatch.setattr(FakePair, "wait_switched_over", refused)

    with pytest.raises(BrokenError, match="the standby is slow"):
        fault.inject(FakePair(), Random(1))  # type: ignore[arg-type]
