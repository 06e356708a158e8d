"""A planned switchover that is proposed and in force: where the guest goes on, who stands by, and if one dies then."""

from ftvm.encode.messages import Copy, Join, Welcome
from ftvm.events import Diverged, HostFailed, SwitchedAway, SwitchedHere, TookOver
from ftvm.interfaces import Record
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.standby import claiming
from ftvm.units import Nanos

from .harness import MS, Pair
from .situations import (
    BACKUP_LIMIT_MS,
    PRIMARY_LIMIT_MS,
    SWITCHOVER_LIMIT,
    begin_switchover,
    live_on,
    switched,
    switching,
)

# --- it works --------------------------------------------------------------------------------------------------------


def test_the_guest_goes_on_at_the_standby_and_the_old_active_stands_by() -> None:
    pair = Pair().protected()
    pair.a.emit(b"one", b"two")

    switchover = begin_switchover(pair)
    pair.until(lambda: switchover.is_over)
    pair.run(200)

    assert switchover.error is None
    assert pair.store.record == Record(3, "b1", "a1")
    assert (pair.a.role, pair.b.role) == (Role.STANDBY, Role.ACTIVE)
    assert (pair.a.is_running, pair.b.is_running) == (False, True)
    assert pair.a.told(SwitchedAway)
    assert pair.b.told(SwitchedHere)
    assert not pair.b.told(TookOver)


def test_no_page_is_copied_again_and_nobody_joins_afresh() -> None:
    pair = switched(Pair().protected())
    seen: list[object] = []

    for _ in range(40):
        pair.elapse(5)
        for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
            host.tick()
            if host.outstanding is not None:
                host.answer()
            seen += [sent.message for sent in host.sent]
            pair.carry(host, other)

    assert not [message for message in seen if isinstance(message, Copy | Join | Welcome)]
    assert pair.a.id == "a1"
    assert pair.a.standby.committed.epoch == pair.b.active.epoch
    assert pair.b.active.link is LinkState.PROTECTED


def test_outputs_are_protected_from_the_first_one_on() -> None:
    pair = switched(Pair().protected())

    pair.b.emit(b"held")
    at_once = pair.b.said
    pair.run(200)

    assert at_once == []
    assert pair.b.said == [b"held"]


def test_the_old_active_takes_over_again_from_what_the_new_one_shipped() -> None:
    pair = switched(Pair().protected())
    pair.b.emit(b"after the switch")
    pair.until(lambda: pair.b.said)
    value = pair.b.value

    live_on(pair, pair.a, 2 * BACKUP_LIMIT_MS)

    assert pair.a.role is Role.ACTIVE
    assert pair.store.record == Record(4, "a1", None)
    assert pair.a.value == value


def test_a_guest_goes_there_and_back_and_there_again() -> None:
    pair = switched(Pair().protected())
    for host in (pair.b, pair.a):
        pair.run(100)
        host.emit(b"x")
        host.replica.begin_switchover(SWITCHOVER_LIMIT, pair.now)
        other = pair.a if host is pair.b else pair.b

        pair.until(lambda other=other: other.role is Role.ACTIVE)  # type: ignore[misc]

    assert pair.store.record == Record(5, "b1", "a1")


def test_what_may_not_have_left_the_old_active_leaves_the_new_one_again() -> None:
    pair = Pair().protected()
    pair.a.active.beat_at = Nanos(pair.now + 10_000 * MS)  # no heartbeat, so b is not told what has left
    pair.a.emit(b"one")
    pair.until(lambda: pair.a.said)

    switched(pair)
    pair.run(100)

    assert pair.a.said == pair.b.said == [b"one"]


# --- one of the two dies at the switch -------------------------------------------------------------------------------


def test_the_old_active_takes_the_guest_back_if_the_new_one_dies_at_once() -> None:
    pair = Pair().protected()
    switchover = switching(pair)
    pair.a.answer()
    assert pair.a.role is Role.STANDBY

    live_on(pair, pair.a, 5 * BACKUP_LIMIT_MS)

    assert pair.a.role is Role.ACTIVE
    assert pair.store.record == Record(4, "a1", None)
    assert pair.a.is_running
    assert switchover.error is not None


def test_a_new_active_that_has_spoken_is_given_time_until_its_first_epoch() -> None:
    pair = switched(Pair().protected())
    pair.until(lambda: pair.a.told(SwitchedAway))
    epoch = pair.a.standby.committed.epoch

    live_on(pair, pair.a, 3 * BACKUP_LIMIT_MS)
    borne = pair.a.role
    live_on(pair, pair.a, 2 * BACKUP_LIMIT_MS)

    assert borne is Role.STANDBY
    assert pair.a.role is Role.ACTIVE
    assert pair.a.told(TookOver)[0].epoch == epoch


def test_a_new_active_is_expected_to_be_prompt_from_its_first_epoch_on() -> None:
    pair = switched(Pair().protected())
    pair.until(lambda: pair.a.told(SwitchedAway))
    epoch = pair.a.standby.committed.epoch
    pair.until(lambda: pair.a.standby.committed.epoch != epoch)

    live_on(pair, pair.a, 2 * BACKUP_LIMIT_MS)

    assert pair.a.role is Role.ACTIVE


def test_the_new_active_drops_the_old_one_if_that_dies_at_once() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.a.answer(is_lost=True)
    pair.a.sent.clear()
    live_on(pair, pair.b, 200)
    assert pair.b.role is Role.ACTIVE
    pair.b.emit(b"held")
    before = pair.b.said

    live_on(pair, pair.b, 5 * PRIMARY_LIMIT_MS)

    assert before == []
    assert pair.store.record == Record(4, "b1", None)
    assert pair.b.said == [b"held"]


def test_a_new_active_that_can_no_longer_load_leaves_the_guest_to_the_old_one() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.a.answer()
    claiming.call_off(pair.b.standby, pair.now)  # a suspicion that was called off has unloaded it
    pair.b.load_error = "the hypervisor is gone"

    pair.until(lambda: pair.a.role is Role.ACTIVE)
    pair.run(1_500)

    assert pair.b.told(HostFailed)
    assert not pair.b.is_running
    assert pair.b.id == "b2"
    assert pair.a.is_running


def test_memory_that_is_not_what_was_handed_over_never_stands_by() -> None:
    pair = Pair().protected()
    switching(pair)
    pair.a.value += 1

    pair.a.answer()

    assert pair.a.role is Role.EMPTY
    assert pair.a.id == "a2"
    assert "was handed over" in pair.a.told(Diverged)[0].reason


def test_who_asked_for_a_switchover_is_told_although_the_new_active_was_never_heard() -> None:
    """Mutant: whoever waits for it waits on beside a host that has discarded what it had."""
    pair = Pair().protected()
    switchover = switching(pair)
    pair.a.answer()
    assert not switchover.is_over
    pair.store.record = Record(4, "b1", None)

    live_on(pair, pair.a, BACKUP_LIMIT_MS)

    assert pair.a.role is Role.EMPTY
    assert switchover.is_over
    assert switchover.error is None
