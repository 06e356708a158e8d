import pytest

from ftvm.errors import ConfigError, LocalProtocolError, TransportError
from ftvm.interfaces import Lane
from ftvm.transport.memory import MemoryNetwork


def test_name_is_held_by_one_transport_at_a_time() -> None:
    network = MemoryNetwork()
    first = network.transport("a")

    with pytest.raises(TransportError, match="another transport listens there"):
        network.transport("a")
    first.close()

    network.transport("a").close()


def test_transport_that_neither_listens_nor_dials_is_refused() -> None:
    with pytest.raises(ConfigError, match="nowhere to listen, and no peer to dial"):
        MemoryNetwork().transport()


def test_message_without_frames_is_refused() -> None:
    network = MemoryNetwork()
    end = network.transport("a", ["b"])

    with pytest.raises(LocalProtocolError):
        end.send("b", Lane.DATA, [])
    end.close()


def test_peer_that_is_replaced_at_its_name_gets_what_is_sent_from_then_on() -> None:
    network = MemoryNetwork()
    dialler = network.transport(peers=["a"], key="k")
    old = network.transport("a")
    dialler.send("a", Lane.DATA, [b"old"], 1)
    old.close()

    new = network.transport("a")
    dialler.send("a", Lane.DATA, [b"new"], 2)
    (came,) = new.poll(9).deliveries
    tokens = dialler.poll(9).let_go

    assert (came.frames, came.key) == ((b"new",), "k")
    assert sorted(tokens) == [1, 2]
    dialler.close()
    new.close()


def test_answer_comes_under_one_name_on_both_lanes_whatever_was_dialled_before() -> None:
    network = MemoryNetwork()
    here, there = network.transport("a", ["b"]), network.transport("b", ["a"])
    here.send("b", Lane.DATA, [b"dialled"])
    there.send("a", Lane.CONTROL, [b"dialled, too"])
    (caller,) = [delivery.peer for delivery in here.poll(9).deliveries]

    for lane in Lane:
        here.send(caller, lane, [b"answer"])
    answers = [delivery for delivery in there.poll(9).deliveries if delivery.frames == (b"answer",)]

    assert [delivery.peer for delivery in answers] == ["a", "a"]
    here.close()
    there.close()


def test_two_diallers_are_told_apart_and_answered_apart() -> None:
    network = MemoryNetwork()
    listener = network.transport("a")
    one, other = network.transport(peers=["a"]), network.transport(peers=["a"])

    one.send("a", Lane.CONTROL, [b"1"])
    other.send("a", Lane.CONTROL, [b"2"])
    for delivery in listener.poll(9).deliveries:
        listener.send(delivery.peer, Lane.CONTROL, delivery.frames)

    assert [end.poll(9).deliveries[0].frames for end in (one, other)] == [(b"1",), (b"2",)]
    for end in (listener, one, other):
        end.close()
