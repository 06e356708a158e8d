"""Zhou and Tamir, "HyCoR: Fault-Tolerant Replicated Containers Based on Checkpoint and Replay" (2021), section III:
what we rely on for the hybrid engine."""

import pytest

from ftvm.engines.hybrid import Hybrid
from ftvm.engines.remus import Remus
from ftvm.events import Committed, TookOver
from ftvm.interfaces import Engine

from .conftest import MakePair, held, payloads, speak, take_over


def hold_ms(make_pair: MakePair, engine: Engine) -> int:
    """How long the answer to a question is held, in the test's milliseconds; it comes right after a cut."""
    pair = make_pair(engine)
    commits = len(pair.a.told(Committed))
    pair.until(lambda: len(pair.a.told(Committed)) > commits)
    speak(pair)
    pair.a.step()
    number = held(pair.a)[-1].number
    began = pair.clock.now()
    pair.until(lambda: number in payloads(pair.a))
    return (pair.clock.now() - began) // 1_000_000


@pytest.mark.parametrize("interval", [0.05, 0.2, 1.0])
def test_the_delay_of_an_output_does_not_depend_on_the_interval(make_pair: MakePair, interval: float) -> None:
    """Output is released once the log is on the backup, so epochs may be long; with Remus it waits for their end."""
    assert hold_ms(make_pair, Hybrid(interval=interval)) <= 2
    assert hold_ms(make_pair, Remus(interval=interval)) >= interval * 500


def test_a_takeover_is_the_last_checkpoint_and_the_log_since(make_pair: MakePair) -> None:
    """Recovery restores the most recent checkpoint and replays from there to the last released output."""
    pair = make_pair(Hybrid(interval=10.0))
    speak(pair)
    pair.run(50)
    epoch, log_count = pair.b.standby.epoch, len(pair.b.standby.log)
    released = payloads(pair.a)

    take_over(pair)
    pair.run(20)

    assert log_count
    assert pair.b.told(TookOver)[0].epoch == epoch
    assert max(payloads(pair.b)) > max(released)


def test_a_checkpoint_bounds_the_log_and_so_the_replay(make_pair: MakePair) -> None:
    """Each checkpoint makes the log before it superfluous; replay never takes longer than the epochs since."""
    pair = make_pair(Hybrid(interval=0.05))
    longest = 0
    for _ in range(60):
        speak(pair)
        pair.run(10)
        first = pair.b.standby.log
        longest = max(longest, pair.a.guest.position.retired - first[0].position.retired if first else 0)

    assert 0 < longest <= 2 * 50 + 20  # a step of the guest takes a millisecond of the test's time


def test_released_output_is_made_again_exactly_by_the_replay(make_pair: MakePair) -> None:
    """What clients saw after the checkpoint comes out of the replay byte for byte, so nobody outside can tell."""
    pair = make_pair(Hybrid(interval=10.0))
    for _ in range(10):
        speak(pair)
        pair.run(5)
    seen = payloads(pair.a)

    take_over(pair)
    made_again = payloads(pair.b)

    assert all(seen[number] == made_again[number] for number in seen.keys() & made_again.keys())
    assert pair.b.guest.position.retired > 0


def test_an_output_that_left_but_was_not_told_travels_with_the_next_checkpoint(make_pair: MakePair) -> None:
    """Outputs may leave before a checkpoint covers them; until the backup is told, it must be able to emit them again.

    Such outputs once fell between the log, which the checkpoint trims, and the checkpoint: a backup could not go on.
    """
    pair = make_pair(Hybrid(interval=0.03))
    for _ in range(40):
        speak(pair)
        pair.run(3)
        committed = pair.b.standby
        kept = [output.number for output in committed.outputs]

        assert kept == list(range(committed.output_next - len(kept), committed.output_next))

    take_over(pair)
    numbers = sorted(payloads(pair.b))
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
