"""Remus: what Cully et al., "Remus: High Availability via Asynchronous Virtual Machine Replication" (NSDI 2008) claims
and we rely on. Each test cites the part of the paper."""

from ftvm.engines.remus import Remus
from ftvm.events import Committed, TookOver
from ftvm.protocol.view import LinkState
from ftvm.testing.pair import Pair

from .conftest import MakePair, held, payloads, speak, take_over

ENGINE = Remus(interval=0.02)


def cut_without_a_standby_that_answers(pair: Pair) -> None:
    """Let a cut an epoch while b does nothing."""
    epoch = pair.a.active.epoch
    for _ in range(100):
        pair.clock.elapse(1)
        pair.a.guest.advance()
        pair.a.step()
        if pair.a.active.epoch > epoch:
            return
    raise AssertionError("no epoch was cut")


def test_the_guest_runs_on_speculatively_while_its_epoch_is_not_committed(make_pair: MakePair) -> None:
    """Section 1.2, speculative execution: the primary runs ahead of the replicated state."""
    pair = make_pair(ENGINE)
    cut_without_a_standby_that_answers(pair)
    steps = pair.a.guest.position.retired

    pair.a.guest.advance()

    assert pair.a.active.session is not None
    assert pair.a.active.session.in_flight
    assert pair.a.guest.position.retired == steps + 1


def test_output_is_buffered_until_the_checkpoint_behind_it_is_acknowledged(make_pair: MakePair) -> None:
    """Section 2, network buffering: no packet leaves before the state that sent it is complete on the backup."""
    pair = make_pair(ENGINE)
    pair.until(lambda: not held(pair.a))
    speak(pair)
    cut_without_a_standby_that_answers(pair)
    waiting = {output.number for output in held(pair.a)}
    before = set(payloads(pair.a))

    pair.run(5)

    assert waiting
    assert not waiting & before
    assert waiting & set(payloads(pair.a))


def test_output_of_the_next_epoch_does_not_leave_with_this_one(make_pair: MakePair) -> None:
    """Section 2, network buffering: a barrier in the buffer separates one epoch's packets from the next's."""
    pair = make_pair(ENGINE)
    cut_without_a_standby_that_answers(pair)
    speak(pair)
    pair.a.step()
    late = held(pair.a)[-1].number

    commits = len(pair.a.told(Committed))
    pair.until(lambda: len(pair.a.told(Committed)) > commits)

    assert late not in payloads(pair.a)


def test_what_was_not_committed_is_rolled_back_and_was_never_seen(make_pair: MakePair) -> None:
    """Section 1.2: execution beyond the last checkpoint is discarded at a failure, and nobody outside saw it."""
    pair = make_pair(ENGINE)
    cut_without_a_standby_that_answers(pair)
    speak(pair)
    lost = {output.number: output.payload for output in held(pair.a)}

    take_over(pair)
    took_over = pair.b.told(TookOver)[0]

    assert lost
    assert not lost.keys() & payloads(pair.a).keys()
    assert took_over.epoch <= pair.a.active.epoch


def test_the_backup_changes_nothing_before_it_has_a_whole_checkpoint(make_pair: MakePair) -> None:
    """Section 2, memory and CPU: the backup applies a checkpoint once all of it has come, never a part."""
    pair = make_pair(ENGINE)
    prints: dict[int, bytes] = {}
    pair.a.guest.on_saved = lambda fingerprint: prints.update({pair.a.active.epoch + 1: fingerprint})
    pair.run(100)

    take_over(pair)

    assert prints[pair.b.told(TookOver)[0].epoch] == pair.b.guest.fingerprint()


def test_either_host_notices_that_the_other_has_failed(make_pair: MakePair) -> None:
    """Section 2, detecting failure: a backup that does not answer is given up, a primary that is silent is replaced."""
    pair, other = make_pair(ENGINE), make_pair(ENGINE)

    pair.kill(pair.b)
    pair.until(lambda: pair.a.active.link is LinkState.NONE)
    take_over(other)

    assert pair.record().standby is None
    assert other.record().active == other.b.id
