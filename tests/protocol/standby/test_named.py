"""A standby that the record names active, by what it has not claimed, or before its state loads."""

from ftvm.encode.messages import Ack, Ping, Pong
from ftvm.interfaces import Lane, Record
from ftvm.protocol import effects as do
from ftvm.protocol.standby import claiming

from ..harness import Pair
from ..situations import live_on, switching


def test_a_record_that_names_a_standby_that_has_claimed_nothing_ends_it_and_runs_nothing() -> None:
    """Mutant: it takes over with a state that it has not loaded."""
    pair = Pair().protected()
    pair.store.record = Record(3, "b1", None)

    live_on(pair, pair.b, 5_000)

    assert pair.b.failures[0] == "the record names this replica active, but it has not claimed that"
    assert not pair.b.is_running


def test_a_standby_that_is_named_active_by_a_switch_acknowledges_nothing_while_its_state_does_not_load() -> None:
    """Mutant: the session goes on behind the SWITCH, and what comes late is acknowledged as if it were committed."""
    pair = Pair().protected()
    switching(pair)
    session = pair.b.standby.offer.session
    pair.a.answer()
    claiming.call_off(pair.b.standby, pair.now)
    pair.b.load_error = "the hypervisor is gone"
    live_on(pair, pair.b, 200)
    performed = len(pair.b.performed)

    pair.a.core.send("b", Lane.CONTROL, Ping(number=1), session)
    pair.a.perform()
    pair.b.take(pair.a, pair.a.sent.pop())
    pair.b.tick()

    sent = [effect.message for effect in pair.b.performed[performed:] if isinstance(effect, do.Send)]
    assert pair.b.core.arbiter.known == Record(3, "b1", "a1")
    assert not [message for message in sent if isinstance(message, Ack | Pong)]
