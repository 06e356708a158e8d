"""Bressoud and Schneider, "Hypervisor-based Fault-tolerance" (SOSP 1995, TOCS 1996): what we rely on for the log
engines. The paper's rules P1 to P7 are meant by "rule"."""

from hypothesis import given, settings
from hypothesis import strategies as st

from ftvm.checkpoint import GuestPosition, LogKind, LogRecord
from ftvm.engines.hybrid import Hybrid
from ftvm.runtime.follow import replay
from ftvm.runtime.sink import NumberingSink
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import ManualClock

from .conftest import MakePair, held, payloads, speak, take_over

ENGINE = Hybrid(interval=10.0)


def make_guest() -> tuple[SimGuest, NumberingSink]:
    guest = SimGuest(page_count=24, pages_per_step=2, output_every=4, boots=True)
    sink = NumberingSink(lambda: None, ManualClock())
    guest.attach(sink)
    return guest, sink


@settings(max_examples=40)
@given(st.lists(st.none() | st.binary(min_size=1, max_size=8), max_size=40))
def test_the_same_inputs_at_the_same_places_give_the_same_machine(history: list[bytes | None]) -> None:
    """The ordinary-instruction assumption: between inputs, the next state is a function of the state alone."""
    first, first_sink = make_guest()
    first_sink.open(1, 1, is_logging=True)
    first.resume()
    for payload in history:
        if payload is not None:
            first.deliver("net0", payload)
        first.advance()
    first.pause()
    drained = first_sink.drain()

    second, second_sink = make_guest()
    second_sink.open(1, 1, is_logging=False)
    replay(second, drained.log, second_sink)
    second.run_until(first.position)

    assert second.fingerprint() == first.fingerprint()
    assert [output for output, _ in second_sink.drain().outputs] == [output for output, _ in drained.outputs]


def test_an_input_is_logged_with_the_place_at_which_the_guest_took_it(make_pair: MakePair) -> None:
    """Rule P1: an interrupt that the primary takes is forwarded with the point at which it was delivered."""
    pair = make_pair(ENGINE)
    place = pair.a.guest.position

    speak(pair)
    pair.run(5)

    logged = [record for record in pair.b.standby.log if record.kind is LogKind.INPUT]
    assert (logged[-1].position, logged[-1].payload) == (place, b"question")


def test_an_input_changes_nothing_that_came_before_it() -> None:
    """Rules P1 and P4: delivered an instruction earlier, an input would make another history; the place matters."""
    prints = set()
    for place in (3, 4):
        guest, sink = make_guest()
        sink.open(1, 1, is_logging=False)
        record = LogRecord(
            index=1, kind=LogKind.INPUT, position=GuestPosition(place, 0), channel="net0", payload=b"question"
        )
        replay(guest, [record], sink)
        guest.run_until(GuestPosition(9, 0))
        prints.add(guest.fingerprint())

    assert len(prints) == 2


def test_output_waits_for_the_acknowledgement_of_all_inputs_before_it(make_pair: MakePair) -> None:
    """The revised protocol: the primary runs on, but must hear that its messages arrived before it does output."""
    pair = make_pair(ENGINE)
    pair.until(lambda: not held(pair.a))
    speak(pair)
    pair.a.step()
    number = held(pair.a)[-1].number

    pair.a.step()
    was_out = number in payloads(pair.a)
    pair.run(2)

    assert not was_out
    assert number in payloads(pair.a)


def test_an_output_whose_fate_is_not_known_is_made_again(make_pair: MakePair) -> None:
    """Rules P6 and P7: after a failover the fate of outstanding output is uncertain; it is done again, the same."""
    pair = make_pair(ENGINE)
    pair.until(lambda: not held(pair.a))
    speak(pair)
    pair.a.step()
    uncertain = held(pair.a)[-1]
    pair.b.step()
    pair.b.step()

    take_over(pair)
    pair.run(20)

    assert payloads(pair.b)[uncertain.number] == uncertain.payload
