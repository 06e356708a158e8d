"""A transport that is shared: a second thread sends while the first one drives it, and every message stays whole."""

import threading
from pathlib import Path

import pytest

from ftvm.interfaces import Lane, Transport
from ftvm.transport.keys import generate_keys
from ftvm.transport.memory import MemoryNetwork
from ftvm.transport.zeromq import ZeroMqTransport

MESSAGES = 3_000
STEP_NS = 1_000_000
TURNS_MAX = 100_000


def pair_of(kind: str, folder: Path) -> tuple[Transport, Transport]:
    """Return one that dials, and whom it dials."""
    if kind == "memory":
        network = MemoryNetwork()
        listener: Transport = network.transport("listener")
        return network.transport(peers=["listener"]), listener
    ours, theirs = generate_keys(2)
    listening = f"ipc://{folder}/wire"
    listener = ZeroMqTransport(listening, [], theirs)
    return ZeroMqTransport(None, [listening], ours), listener


@pytest.mark.parametrize("kind", ["memory", "curve"])
def test_what_two_threads_send_arrives_whole_and_in_the_order_of_each(kind: str, tmp_path: Path) -> None:
    dialler, listener = pair_of(kind, tmp_path)
    dialler.share(threading.Lock())
    peer, is_over = dialler.dialled[0], threading.Event()
    sent: dict[bytes, int] = {b"loop": 0, b"heart": 0}
    came: dict[bytes, list[int]] = {name: [] for name in sent}

    def send(name: bytes) -> None:
        number = sent[name].to_bytes(4, "big")
        if sent[name] < MESSAGES and dialler.send(peer, Lane.CONTROL, [name, number, name * 100]):
            sent[name] += 1

    def beat() -> None:
        while sent[b"heart"] < MESSAGES and not is_over.wait(0):
            send(b"heart")
            dialler.wake()

    heart = threading.Thread(target=beat)
    heart.start()
    for _ in range(TURNS_MAX):
        send(b"loop")
        dialler.poll(64)
        for delivery in listener.poll(64).deliveries:
            name, number, content = map(bytes, delivery.frames)
            assert content == name * 100
            came[name].append(int.from_bytes(number, "big"))
        if all(len(numbers) == MESSAGES for numbers in came.values()):
            break
        if sent[b"loop"] == MESSAGES:
            listener.wait(STEP_NS, ())
    is_over.set()
    heart.join()
    dialler.close()
    listener.close()

    assert came == {name: list(range(MESSAGES)) for name in sent}
