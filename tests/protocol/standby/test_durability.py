"""What a guest flushed is on the standby's disk before it is acknowledged, and on who takes over's before it speaks."""

import pytest

from ftvm.checkpoint import Checkpoint
from ftvm.encode.messages import Ack
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.reports import GuestAgreed, Persisted
from ftvm.protocol.standby.commit import Durability

from ..harness import Pair, make_settings
from ..situations import SWITCHOVER_LIMIT, take_over


def a_pair(*, flushes: bool = True) -> Pair:
    """Return a protected pair with disks; from here on that of b has something only when a test says so."""
    pair = Pair(make_settings(keeps_disks=True)).protected()
    pair.a.flushes = flushes
    pair.run(50)
    pair.b.asked = []
    return pair


def acknowledged(pair: Pair) -> int:
    session = pair.a.active.session
    assert session is not None
    return session.acked.epoch


def committed(pair: Pair) -> int:
    assert pair.b.standby.committed.epoch is not None
    return pair.b.standby.committed.epoch


def test_an_epoch_that_holds_a_flush_is_acknowledged_once_the_standbys_disk_has_it() -> None:
    pair = a_pair()

    pair.a.emit(b"your entry is safe")
    pair.run(100)
    before = list(pair.a.said), acknowledged(pair) < committed(pair)
    pair.b.persist()
    pair.run(100)

    assert before == ([], True)
    assert pair.a.said == [b"your entry is safe"]


def test_an_epoch_without_a_flush_waits_for_no_disk() -> None:
    pair = a_pair(flushes=False)

    pair.a.emit(b"nothing was promised")
    pair.run(100)

    assert pair.a.said == [b"nothing was promised"]
    assert pair.b.asked == []


def test_a_host_without_disks_asks_for_nothing() -> None:
    pair = Pair().protected()
    pair.b.asked = []

    pair.a.emit(b"hello")
    pair.run(100)

    assert pair.a.said == [b"hello"]
    assert pair.b.asked == []


def test_flushes_that_come_while_the_disk_is_busy_are_asked_for_together() -> None:
    pair = a_pair()
    for number in range(3):
        pair.a.emit(b"%d" % number)
        pair.run(30)
    asked_at_once = len(pair.b.asked or ())

    pair.b.persist()
    pair.run(30)
    asked_next = len(pair.b.asked or ())
    for _ in range(3):
        pair.b.persist()
        pair.run(30)

    assert (asked_at_once, asked_next) == (1, 1)
    assert pair.a.said == [b"0", b"1", b"2"]


def test_what_has_become_durable_is_acknowledged_though_nothing_new_comes() -> None:
    """Mutant: it is acknowledged with the next message, however late that is."""
    pair = a_pair()
    pair.a.emit(b"your entry is safe")
    pair.run(100)
    asked = pair.b.standby.durability.asked
    assert asked is not None

    pair.b.persist()
    pair.b.tick()

    assert [ack.epoch for ack in pair.b.waiting(Ack)] == [asked.epoch]


def test_an_epoch_that_the_guest_reached_here_by_itself_waits_for_the_disk_if_it_holds_a_flush() -> None:
    """Mutant: only one that came as pages does."""
    pair = a_pair(flushes=False)
    committed_before = committed(pair)
    reached = Checkpoint(
        epoch=committed_before + 1,
        base=committed_before,
        engine="remus",
        batches=(),
        devices=b"devices",
        outputs=(),
        output_next=pair.b.standby.committed.output_next,
        log_index=0,
        memory_digest=pair.b.memory.memory_digest,
        dirty_pages=0,
        has_flush=True,
    )

    pair.b.give(GuestAgreed(reached))
    pair.b.perform()

    assert committed(pair) == committed_before + 1
    assert pair.b.standby.durability.safe == (committed_before, pair.b.memory.memory_digest)
    assert len(pair.b.asked or ()) == 1


def test_a_flush_that_came_while_the_disk_was_busy_is_asked_for_once_it_is_free_and_waits_for_no_other() -> None:
    """Mutant: it is asked for with the next epoch, which a guest that waits may never make."""
    pair = a_pair()
    for number in range(2):
        pair.a.emit(b"%d" % number)
        pair.run(30)

    pair.b.persist()

    assert len(pair.b.asked or ()) == 1


def test_what_was_acknowledged_before_a_flush_stays_acknowledged_with_its_digest() -> None:
    pair = a_pair()
    before = acknowledged(pair)
    pair.a.emit(b"x")
    pair.run(100)

    pair.b.standby.owes_ack = True
    pair.b.tick()

    acks = pair.b.waiting(Ack)
    assert [ack.epoch for ack in acks] == [before]
    assert acks[0].memory_digest != pair.b.memory.memory_digest


@pytest.mark.parametrize("flushes", [True, False], ids=["flushed", "not flushed"])
def test_nobody_is_proposed_before_its_disk_has_the_first_copy(flushes: bool) -> None:
    """Mutant: a first epoch without a flush is acknowledged at once."""
    pair = Pair(make_settings(keeps_disks=True))
    pair.a.flushes, pair.b.asked = flushes, []
    pair.started()
    for _ in range(40):
        pair.run(5)
        if pair.a.active.link is LinkState.CATCHING_UP:
            break
        pair.b.persist()
    pair.run(100)
    before = pair.a.active.link, pair.b.role

    pair.b.persist()
    pair.run(50)

    assert before == (LinkState.CATCHING_UP, Role.STANDBY)
    assert pair.a.active.link is LinkState.PROTECTED


def test_a_first_copy_goes_no_faster_than_the_joiners_disk_takes_it() -> None:
    """Its last epoch, for which the guest's outputs wait, then finds little left to be written."""
    pair = Pair(make_settings(keeps_disks=True))
    pair.b.asked = []
    pair.started()

    pair.run(200)
    before = pair.a.active.link
    for _ in range(10):
        pair.b.persist()
        pair.run(5)

    assert before is LinkState.COPYING
    assert pair.a.active.link is not LinkState.COPYING


def test_a_part_of_a_first_copy_that_the_disk_has_is_acknowledged_and_none_behind_it() -> None:
    pair = Pair(make_settings(keeps_disks=True))
    pair.b.asked = []
    pair.started()

    pair.run(50)

    durability = pair.b.standby.durability
    assert durability.asked is not None
    assert durability.received is not None
    assert durability.asked.received == durability.received + 1


def test_a_standby_whose_disk_fails_leaves() -> None:
    pair = a_pair()
    pair.a.emit(b"x")
    pair.run(50)

    pair.b.persist("the disk b.img cannot be written: Input/output error")
    pair.run(50)

    assert pair.b.failures == ["the disk b.img cannot be written: Input/output error"]
    assert pair.a.said == []


def test_who_takes_over_lets_nothing_out_before_its_disk_has_what_was_flushed() -> None:
    """The client must not hear from it of an entry that a power cut here would lose."""
    pair = a_pair()
    pair.a.emit(b"your entry is safe")
    pair.run(100)

    take_over(pair)
    pair.b.emit(b"and this is later")
    before = list(pair.b.said)
    pair.b.persist()

    assert before == []
    assert pair.b.said == [b"your entry is safe", b"and this is later"]
    assert pair.b.is_running


def test_who_takes_over_waits_for_all_that_it_committed_not_for_what_it_asked_for_before() -> None:
    """Mutant: the word of the standby's wish lets out what was flushed behind it."""
    pair = a_pair()
    pair.a.emit(b"your entry is safe")
    pair.run(100)
    take_over(pair)
    assert pair.b.asked is not None
    standbys, *_ = pair.b.asked

    pair.b.give(Persisted(standbys))
    pair.b.perform()
    before = list(pair.b.said)
    pair.b.persist()

    assert before == []
    assert pair.b.said == [b"your entry is safe"]


def test_who_takes_over_with_all_that_was_flushed_on_its_disk_waits_for_nothing() -> None:
    pair = a_pair(flushes=False)
    pair.a.emit(b"hello")
    pair.elapse(25)
    pair.a.tick()
    pair.carry(pair.a, pair.b)

    take_over(pair)

    assert pair.b.said == [b"hello"]
    assert pair.b.asked == []


def test_who_takes_over_with_a_disk_that_fails_goes_on_as_on_any_broken_disk() -> None:
    pair = a_pair()
    pair.a.emit(b"your entry is safe")
    pair.run(100)
    take_over(pair)

    pair.b.persist("the disk b.img cannot be written: Input/output error")

    assert pair.b.said == [b"your entry is safe"]
    assert [event.error for event in pair.b.events if hasattr(event, "error")][-1].startswith("the disk b.img")


def test_who_handed_the_guest_over_acknowledges_nothing_before_its_disk_has_all_of_it() -> None:
    """What the guest wrote there, and did not flush, is in no step that its disk was given."""
    pair = a_pair(flushes=False)
    pair.b.asked, pair.a.asked = None, []
    pair.b.flushes = False
    pair.a.replica.begin_switchover(SWITCHOVER_LIMIT, pair.now)
    pair.until(lambda: pair.a.asked)
    pair.a.persist()
    pair.run(200)
    assert pair.b.role is Role.ACTIVE
    pair.b.emit(b"hello")
    pair.run(100)
    before = list(pair.b.said)

    pair.a.persist()
    pair.run(100)

    assert before == []
    assert pair.b.said == [b"hello"]


@pytest.mark.parametrize("is_owed", [False, True])
def test_the_word_of_another_wish_changes_nothing(is_owed: bool) -> None:
    durability = Durability()
    durability.hold(4, 44)
    durability.ask(7, 5, 55, 9)
    if is_owed:
        durability.hold(5, 55)

    is_news = durability.take(6)

    assert not is_news
    assert durability.safe == (4, 44)


def test_what_is_durable_may_be_acknowledged_and_what_was_flushed_since_may_not() -> None:
    durability = Durability()
    durability.hold(4, 44)
    durability.ask(7, 5, 55, 9)
    durability.hold(6, 66)

    assert durability.take(7)

    assert durability.safe == (5, 55)
    assert durability.must_ask


def test_a_first_copy_is_acknowledged_as_far_as_the_devices_have_it_and_holds_no_epoch_back() -> None:
    """Mutants: what comes while the devices are busy counts as theirs; so does all, once they have some of it."""
    durability = Durability()
    durability.hold_copy(4)
    durability.ask(7, 0, 0, 5)
    durability.hold_copy(5)
    durability.hold_copy(6)
    before = durability.received

    assert durability.take(7)

    assert (before, durability.received) == (4, 5)
    assert durability.must_ask
    assert durability.safe is None
