"""An output behind a flush waits for the epoch that holds the flush, also where others wait for the log alone."""

from dataclasses import replace

import pytest

from ftvm.checkpoint import Output, OutputTable
from ftvm.engines.hybrid import Hybrid
from ftvm.events import SwitchFailed
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.protocol.reports import Emitted, Persisted

from ..harness import Pair, make_settings
from ..situations import begin_switchover, live_on, stop


def a_pair(*, interval: float = 10.0) -> Pair:
    """Return a pair under hybrid, whose cuts are `interval` seconds apart; b's disk waits for the test from here on."""
    hybrid = Hybrid(interval=interval)
    settings = replace(
        make_settings(engines=("hybrid",), keeps_disks=True), engine=hybrid, engines={hybrid.name: hybrid}
    )
    pair = Pair(settings).protected()
    pair.run(50)
    pair.a.flushes, pair.b.asked = False, []
    pair.a.active.flushed = 0  # as if it had flushed nothing yet
    return pair


def say(pair: Pair, payload: bytes, *, behind_a_flush: bool) -> None:
    """Have the guest say something, and have flushed before, if it is to be."""
    output = Output(number=pair.a.output_next, channel="net0", payload=payload)
    pair.a.output_next += 1
    pair.a.flushes |= behind_a_flush
    pair.a.give(Emitted(said=[(OutputTable.of([output]), 0)], has_flush=behind_a_flush))
    pair.a.perform()


def test_an_output_behind_a_flush_waits_until_the_standbys_disk_has_the_flush() -> None:
    pair = a_pair()

    say(pair, b"your entry is safe", behind_a_flush=True)
    pair.run(100)
    before = list(pair.a.said)
    pair.b.persist()
    pair.run(20)

    assert before == []
    assert pair.a.said == [b"your entry is safe"]


def test_an_output_without_a_flush_before_it_waits_for_no_epoch() -> None:
    pair = a_pair()
    epoch = pair.a.active.epoch

    say(pair, b"nothing was promised", behind_a_flush=False)

    assert pair.a.said == [b"nothing was promised"]
    assert pair.a.active.epoch == epoch


def test_an_output_of_a_later_epoch_waits_for_the_one_that_holds_the_flush() -> None:
    """Mutant: only what was said before the cut waits."""
    pair = a_pair(interval=0.02)
    pair.a.flushes = True
    pair.run(30)
    pair.a.flushes = False

    say(pair, b"nobody has heard of the flush yet", behind_a_flush=False)
    pair.run(10)
    before = list(pair.a.said)
    for _ in range(2):
        pair.b.persist()
        pair.run(10)

    assert before == []
    assert pair.a.said == [b"nobody has heard of the flush yet"]


def test_an_output_behind_a_flush_makes_its_cut_come_at_once_and_those_behind_it_share_the_next() -> None:
    pair = a_pair()
    epoch = pair.a.active.epoch

    say(pair, b"one", behind_a_flush=True)
    pair.run(10)
    after_one = pair.a.active.epoch
    say(pair, b"two", behind_a_flush=True)
    say(pair, b"three", behind_a_flush=True)
    pair.run(30)
    while_it_waits = pair.a.active.epoch
    for _ in range(3):
        pair.b.persist()
        pair.run(20)

    assert (after_one, while_it_waits, pair.a.active.epoch) == (epoch + 1, epoch + 1, epoch + 2)
    assert pair.a.said == [b"one", b"two", b"three"]


def test_after_a_switchover_outputs_wait_until_the_old_active_has_on_its_disk_what_was_flushed_there() -> None:
    pair = a_pair()
    pair.a.asked = []
    pair.b.asked = None

    begin_switchover(pair)
    pair.until(lambda: pair.a.asked)
    pair.a.persist()
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.b.emit(b"it was flushed before")
    pair.run(100)
    before = list(pair.b.said)
    pair.a.persist()
    pair.run(50)
    pair.a.persist()
    pair.run(50)

    assert before == []
    assert pair.b.said == [b"it was flushed before"]


@pytest.mark.parametrize("is_captured", [True, False], ids=["captured", "capture failed"])
def test_a_flush_is_remembered_until_an_epoch_holds_it(is_captured: bool) -> None:
    pair = a_pair()
    epoch = pair.a.active.epoch
    pair.a.capture_error = None if is_captured else "no memory"

    say(pair, b"safe", behind_a_flush=True)
    pair.run(10)

    assert pair.a.active.flushed == epoch + 1


def test_nothing_waits_for_a_flush_on_a_host_that_is_alone() -> None:
    pair = Pair(make_settings(keeps_disks=True)).started()

    say(pair, b"safe on this disk", behind_a_flush=True)

    assert pair.a.said == [b"safe on this disk"]


def lost(pair: Pair, *, keeps_disks: bool = True) -> Pair:
    """Have a lose its standby, and say something that it may let out alone; its disk waits for the test."""
    pair.a.asked = [] if keeps_disks else None
    live_on(pair, pair.a, 600)
    assert pair.a.active.link is LinkState.NONE
    pair.a.emit(b"alone")
    return pair


def test_who_loses_its_standby_lets_nothing_out_before_its_own_disk_has_what_was_flushed() -> None:
    """What it told was on the standby's disk, which is gone."""
    pair = lost(Pair(make_settings(keeps_disks=True)).protected())
    before = list(pair.a.said)

    pair.a.persist()

    assert before == []
    assert pair.a.said == [b"alone"]


def test_who_stops_alone_vacates_the_record_only_once_its_own_disk_has_what_was_flushed() -> None:
    """Mutant: the host has left the record by then, and what it tells last is on no disk for sure."""
    pair = lost(Pair(make_settings(keeps_disks=True)).protected())

    stop(pair.a)
    live_on(pair, pair.a, 100)
    before, was = pair.a.active.link, list(pair.a.said)
    pair.a.persist()
    live_on(pair, pair.a, 100)

    assert (before, was) == (LinkState.NONE, [])
    assert pair.a.role is not Role.ACTIVE
    assert pair.a.said == [b"alone"]


def test_who_loses_its_standby_and_has_no_disks_goes_on_at_once() -> None:
    pair = lost(Pair().protected(), keeps_disks=False)

    assert pair.a.said == [b"alone"]


def test_who_has_lost_its_standby_and_whose_disk_fails_then_goes_on_as_on_any_broken_disk() -> None:
    pair = lost(Pair(make_settings(keeps_disks=True)).protected())

    pair.a.persist("the disk a.img cannot be written: Input/output error")

    assert pair.a.said == [b"alone"]


def test_the_word_of_an_earlier_wish_lets_nothing_out() -> None:
    pair = lost(Pair(make_settings(keeps_disks=True)).protected())
    (number,) = pair.a.asked or ()

    pair.a.give(Persisted(number - 1))
    pair.a.perform()

    assert pair.a.said == []


def test_the_guest_is_handed_over_only_once_this_hosts_disk_has_what_was_flushed() -> None:
    """It is to be the standby, and may be asked to go on alone before it has acknowledged anything."""
    pair = Pair(make_settings(keeps_disks=True)).protected()
    pair.a.asked = []

    begin_switchover(pair)
    pair.until(lambda: pair.a.asked)
    pair.run(100)
    before = pair.a.active.link
    pair.a.persist()
    pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert before is LinkState.HANDING


def test_a_switchover_that_a_slow_disk_holds_up_is_called_off_and_says_so() -> None:
    pair = Pair(make_settings(keeps_disks=True)).protected()
    pair.a.asked = []

    begin_switchover(pair)
    pair.run(4_000)

    (failed,) = pair.a.told(SwitchFailed)
    assert failed.reason.endswith("this host's disks do not have yet what the guest has flushed")
