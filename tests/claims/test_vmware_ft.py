"""Scales, Nelson and Venkitachalam, "The design of a practical system for fault-tolerant virtual machines" (2010): what
we rely on."""

from itertools import islice

import pytest

from ftvm.checkpoint import LogKind
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.lockstep import Lockstep
from ftvm.events import Committed, Protected
from ftvm.interfaces import Engine
from ftvm.protocol.view import Role

from .conftest import MakePair, held, payloads, speak, take_over

ENGINE = Hybrid(interval=10.0)
LOCKSTEP = Lockstep(interval=0.02)
WITH_A_LOG = pytest.mark.parametrize("engine", [ENGINE, LOCKSTEP], ids=["hybrid", "lockstep"])


def test_the_backup_executes_what_the_primary_did_a_little_later(make_pair: MakePair) -> None:
    """Section 2: both run the same machine; the backup reads all input from the log and stays close behind."""
    pair = make_pair(LOCKSTEP)
    speak(pair)
    pair.run(100)

    lag = pair.a.guest.position.retired - pair.b.guest.position.retired
    assert 0 <= lag <= 20
    assert pair.b.guest.position.retired > 100


def test_the_outputs_of_the_backup_are_dropped(make_pair: MakePair) -> None:
    """Section 2: both make them, but only the primary's go to the world."""
    pair = make_pair(LOCKSTEP)
    pair.run(200)

    assert pair.a.released
    assert pair.b.standby.output_next > 10
    assert pair.b.released == []


def test_only_the_log_travels_once_the_backup_executes(make_pair: MakePair) -> None:
    """Section 2.1: the log is all that is needed to reproduce the primary; no page is copied after the start."""
    pair = make_pair(LOCKSTEP)
    pair.run(200)

    first, *marks = pair.b.told(Committed)

    assert first.sent_bytes > 0
    assert len(marks) >= 5
    assert all(mark.sent_bytes == 0 for mark in marks)


def test_a_primary_that_runs_far_ahead_is_slowed_until_the_backup_has_come_after(make_pair: MakePair) -> None:
    """Section 3.2: a backup far behind would take long to go live, so the primary is slowed when the lag is large."""
    pair = make_pair(LOCKSTEP)
    pair.alive.remove(pair.b)
    pair.run(100)
    ahead = pair.a.guest.position
    pair.run(100)

    assert not pair.a.guest.is_running
    assert pair.a.guest.position == ahead

    pair.alive.append(pair.b)
    pair.run(100)

    assert pair.a.guest.position > ahead


def test_no_output_leaves_before_the_log_entry_of_the_output_itself_is_acknowledged(make_pair: MakePair) -> None:
    """Section 2.2, the output rule: the entry is the one of the operation that makes the output, not one before."""
    pair = make_pair(ENGINE)
    seen = 0

    for _ in islice(pair.turns(), 400):
        committed = pair.b.standby
        logged = {record.amount for record in committed.log if record.kind is LogKind.OUTPUT}
        since_checkpoint = {number for number in payloads(pair.a) if number >= committed.output_next}
        seen += len(since_checkpoint)

        assert since_checkpoint <= logged

    assert seen


@WITH_A_LOG
def test_only_the_output_is_delayed_the_guest_runs_on(make_pair: MakePair, engine: Engine) -> None:
    """Section 2.2: the rule says nothing about stopping the primary; it need only delay the sending."""
    pair = make_pair(engine)
    speak(pair)
    pair.a.step()
    steps = pair.a.guest.position.retired

    pair.a.guest.advance()

    assert held(pair.a)
    assert pair.a.guest.position.retired == steps + 1


def test_a_takeover_replays_to_the_last_entry_before_it_takes_anything_new(make_pair: MakePair) -> None:
    """Section 2.3: the backup goes live only once it has consumed the last log entry that it received."""
    pair = make_pair(ENGINE)
    speak(pair)
    pair.run(30)
    last = pair.b.standby.log[-1].position

    pair.b.world.put("net0", b"too early")
    take_over(pair)

    assert pair.b.guest.position >= last


@WITH_A_LOG
def test_output_after_a_takeover_agrees_with_all_that_was_sent(make_pair: MakePair, engine: Engine) -> None:
    """Section 2.2, the output requirement: the backup goes on in a way that is consistent with all outputs sent."""
    pair = make_pair(engine)
    for _ in range(20):
        pair.a.world.put("net0", b"more")
        pair.run(7)
    before = payloads(pair.a)

    take_over(pair)
    pair.run(300)
    after = payloads(pair.b)

    assert before
    assert all(before[number] == after[number] for number in before.keys() & after.keys())
    assert set(range(1, max(after) + 1)) <= before.keys() | after.keys()


@WITH_A_LOG
def test_only_one_side_goes_live_when_each_thinks_that_the_other_is_dead(make_pair: MakePair, engine: Engine) -> None:
    """Section 2.3: an atomic test-and-set on shared storage decides; the loser halts."""
    pair = make_pair(engine)

    pair.alive.remove(pair.a)  # stopped, not dead: its messages wait, its time goes on
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.alive.append(pair.a)
    pair.run(2_000)

    actives = [machine for machine in (pair.a, pair.b) if machine.role is Role.ACTIVE]
    assert actives == [pair.b]
    assert not pair.a.guest.is_running


@WITH_A_LOG
def test_redundancy_comes_back_while_the_guest_runs(make_pair: MakePair, engine: Engine) -> None:
    """Section 3.1: a new backup is started for a running guest, which is only paused for a moment."""
    pair = make_pair(engine)
    pair.alive.remove(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.alive.append(pair.a)

    pair.until(lambda: pair.b.told(Protected))
    before = len(pair.b.released)
    pair.run(200)

    assert pair.store.read("vm").standby is not None
    assert len(pair.b.released) > before
