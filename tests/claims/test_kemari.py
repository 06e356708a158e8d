"""Kemari: what Tamura et al., "Kemari: Virtual Machine Synchronization for Fault Tolerance" (2008) claims and we rely
on: synchronisation is driven by output events."""

from ftvm.engines.kemari import QUIET_INTERVALS, Kemari
from ftvm.testing.pair import Pair

from .conftest import MakePair, held, payloads, speak, take_over

ENGINE = Kemari(interval=10.0)
"""So long that only outputs cut within a test."""


def quiet(pair: Pair) -> Pair:
    """Wait until nothing is held and nothing under way."""
    pair.until(lambda: not held(pair.a) and not pair.a.view.must_stand_still)
    return pair


def test_an_output_makes_a_checkpoint_at_once(make_pair: MakePair) -> None:
    """Event-driven synchronisation: the primary is synchronised when it is about to send, not by a timer."""
    pair = quiet(make_pair(ENGINE))
    epoch = pair.a.active.epoch
    speak(pair)

    pair.a.step()

    assert pair.a.active.epoch == epoch + 1


def test_without_output_nothing_is_synchronised(make_pair: MakePair) -> None:
    """Event-driven synchronisation: each one is caused by an output; only the quiet bound, here 100 s, cuts without."""
    pair = quiet(make_pair(ENGINE))
    epoch, emitted = pair.a.active.epoch, len(payloads(pair.a))

    pair.run(500)
    quiet(pair)

    assert QUIET_INTERVALS * ENGINE.interval > 0.6
    assert 0 < pair.a.active.epoch - epoch <= len(payloads(pair.a)) - emitted


def test_the_guest_stands_still_from_the_output_to_the_commit_and_goes_on_then(make_pair: MakePair) -> None:
    """The primary is stopped until the secondary has its state: there is no speculation, so no output buffer."""
    pair = quiet(make_pair(ENGINE))
    speak(pair)
    pair.a.step()
    steps = pair.a.guest.position.retired
    pair.a.guest.advance()
    stood_still = pair.a.guest.position.retired == steps

    pair.run(5)

    assert stood_still
    assert pair.a.guest.position.retired > steps


def test_an_output_leaves_as_soon_as_its_checkpoint_is_committed(make_pair: MakePair) -> None:
    """The event that caused the synchronisation is let through right after it."""
    pair = quiet(make_pair(ENGINE))
    speak(pair)
    pair.a.step()
    number = held(pair.a)[-1].number
    was_out = number in payloads(pair.a)

    for machine in (pair.b, pair.b, pair.a):
        machine.step()

    assert not was_out
    assert number in payloads(pair.a)


def test_outputs_that_occur_together_are_synchronised_together(make_pair: MakePair) -> None:
    """One synchronisation covers all events that are pending when it is made."""
    pair = quiet(make_pair(ENGINE))
    epoch = pair.a.active.epoch
    speak(pair)
    speak(pair)

    pair.a.step()
    numbers = {output.number for output in held(pair.a)}
    for machine in (pair.b, pair.b, pair.a):
        machine.step()

    assert pair.a.active.epoch == epoch + 1
    assert len(numbers) >= 2
    assert numbers <= set(payloads(pair.a))


def test_a_takeover_emits_the_last_output_again(make_pair: MakePair) -> None:
    """The secondary cannot know whether the last event happened, and so repeats it."""
    pair = quiet(make_pair(ENGINE))
    speak(pair)
    pair.a.step()
    last = held(pair.a)[-1]
    pair.b.step()
    pair.b.step()

    take_over(pair)
    pair.run(20)

    assert last.number not in payloads(pair.a)
    assert payloads(pair.b)[last.number] == last.payload


def test_grouped_outputs_share_one_synchronisation_and_the_guest_runs_until_then(make_pair: MakePair) -> None:
    """Ours, not the paper's: some speculation is bought back, bounded by the group; the rule of release is the same."""
    pair = quiet(make_pair(Kemari(interval=10.0, group=0.05)))
    epoch = pair.a.active.epoch
    speak(pair)
    pair.a.step()
    speak(pair)
    pair.a.step()
    waiting, cuts = [output.number for output in held(pair.a)], pair.a.active.epoch - epoch
    is_running = pair.a.guest.is_running

    pair.until(lambda: not held(pair.a))

    assert (len(waiting), cuts, is_running) == (2, 0, True)
    assert set(waiting) <= set(payloads(pair.a))
    assert pair.a.active.epoch == epoch + 1
