"""Scales, Nelson and Venkitachalam, "The design of a practical system for fault-tolerant virtual machines" (2010): what
we rely on."""

from ftvm.checkpoint import LogKind
from ftvm.engines.hybrid import Hybrid
from ftvm.events import Protected
from ftvm.protocol.core import Role

from .conftest import MakePair, held, payloads, speak, take_over

ENGINE = Hybrid(interval=10.0)


def test_no_output_leaves_before_the_log_entry_of_the_output_itself_is_acknowledged(make_pair: MakePair) -> None:
    """Section 2.2, the output rule: the entry is the one of the operation that makes the output, not one before."""
    pair = make_pair(ENGINE)
    pair.run(200)

    logged = {record.amount for record in pair.b.standby.committed.log if record.kind is LogKind.OUTPUT}

    since_checkpoint = {number for number in payloads(pair.a) if number >= pair.b.standby.committed.output_next}
    assert since_checkpoint
    assert since_checkpoint <= logged


def test_only_the_output_is_delayed_the_guest_runs_on(make_pair: MakePair) -> None:
    """Section 2.2: the rule says nothing about stopping the primary; it need only delay the sending."""
    pair = make_pair(ENGINE)
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
    last = pair.b.standby.committed.log[-1].position

    pair.b.world.put("net0", b"too early")
    take_over(pair)

    assert pair.b.guest.position >= last


def test_output_after_a_takeover_agrees_with_all_that_was_sent(make_pair: MakePair) -> None:
    """Section 2.2, the output requirement: the backup goes on in a way that is consistent with all outputs sent."""
    pair = make_pair(ENGINE)
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


def test_only_one_side_goes_live_when_each_thinks_that_the_other_is_dead(make_pair: MakePair) -> None:
    """Section 2.3: an atomic test-and-set on shared storage decides; the loser halts."""
    pair = make_pair(ENGINE)

    pair.alive.remove(pair.a)  # stopped, not dead: its messages wait, its time goes on
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.alive.append(pair.a)
    pair.run(2_000)

    actives = [machine for machine in (pair.a, pair.b) if machine.role is Role.ACTIVE]
    assert actives == [pair.b]
    assert not pair.a.guest.is_running


def test_redundancy_comes_back_while_the_guest_runs(make_pair: MakePair) -> None:
    """Section 3.1: a new backup is started for a running guest, which is only paused for a moment."""
    pair = make_pair(ENGINE)
    pair.alive.remove(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.alive.append(pair.a)

    pair.until(lambda: pair.b.told(Protected))
    before = len(pair.b.released)
    pair.run(200)

    assert pair.store.read("vm").standby is not None
    assert len(pair.b.released) > before
