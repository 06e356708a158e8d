"""check_transport: does a transport keep the contract of interfaces.Transport?

Promises checked: messages arrive as they were sent, in order, on their lane, both ways; nothing blocks but `wait`;
lent buffers are read before they are let go of and not after; `wait` ends for each of its reasons; `close` gives
everything back. It drives both ends from one thread. It does not look into how peers are authenticated.
"""

import os
import random
import select
from collections.abc import Callable, Sequence
from typing import Final

from ftvm.checkpoint import Buffer
from ftvm.errors import ClosedError
from ftvm.interfaces import Delivery, Lane, Transport
from ftvm.testing.contract import patience, require

__all__ = ["check_transport"]

MakePair = Callable[[], tuple[Transport, Transport]]

_TURNS_MAX: Final = 5_000
_TURN_NS: Final = 1_000_000
_LONG_NS: Final = 3_600_000_000_000
_LINGER_LOOKS: Final = 100
_LINGER_SECONDS: Final = 0.02
_FLOOD_MESSAGES_MAX: Final = 4_096
_FLOOD_BYTES: Final = 64 << 10
_SIZES: Final = (0, 1, 255, 256, 4095, 4096, (16 << 10) - 1, 16 << 10, 1 << 20)


def check_transport(make_pair: MakePair, *, patience_seconds: float = 30.0, seed: int = 0) -> None:
    """Check a transport against its contract; raises ContractBroken that names the promise and what was seen.

    make_pair  returns two fresh transports, the first of which dials the second; called once for each promise
    """
    for clause in _CLAUSES:
        promise = (clause.__doc__ or clause.__name__).rstrip(".")
        with patience(promise, patience_seconds):
            pair = _TransportPair(make_pair, promise, random.Random(seed))
            try:
                clause(pair)
            finally:
                pair.close()
    _check_nothing_left_behind(make_pair, patience_seconds)
    _check_wake(make_pair, patience_seconds)


class _TransportPair:
    """Two ends, driven in turns. What came is kept as it came, and compared late: a view must stay as it was."""

    def __init__(self, make_pair: MakePair, promise: str, chance: random.Random) -> None:
        self.dialler, self.listener = make_pair()
        self.ends = (self.dialler, self.listener)
        self.promise = promise
        self.chance = chance
        self.came: dict[Transport, list[Delivery]] = {end: [] for end in self.ends}
        self.let_go: dict[Transport, list[int]] = {end: [] for end in self.ends}

    @property
    def target(self) -> str:
        """The name by which the dialler calls the listener."""
        return self.dialler.dialled[0]

    def require(self, is_kept: bool, detail: str) -> None:
        require(is_kept, self.promise, detail)

    def turn(self) -> None:
        for end in self.ends:
            end.wait(_TURN_NS, ())
            polled = end.poll(64)
            self.came[end].extend(polled.deliveries)
            self.let_go[end].extend(polled.let_go)

    def until(self, is_reached: Callable[[], bool], what: str) -> None:
        for _ in range(_TURNS_MAX):
            if is_reached():
                return
            self.turn()
        self.require(False, f"{what} did not come about")

    def send(self, end: Transport, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> None:
        self.until(lambda: end.send(peer, lane, frames, token), f"room for a message on {lane}")

    def connect(self) -> str:
        """Send one message on each lane; return the name that the listener calls the dialler."""
        for lane in Lane:
            self.send(self.dialler, self.target, lane, [b"hello"])
        self.until(lambda: len(self.came[self.listener]) >= len(Lane), "the first message of each lane")
        names = {delivery.peer for delivery in self.came[self.listener]}
        self.require(len(names) == 1, f"one dialler has the names {names}")
        self.came[self.listener].clear()
        return names.pop()

    def take(self, end: Transport, count: int) -> list[Delivery]:
        """Wait until `count` messages have come, and a little for those that should not come."""
        self.until(lambda: len(self.came[end]) >= count, f"message {count}")
        for _ in range(5):
            self.turn()
        taken, self.came[end] = self.came[end], []
        return taken

    def close(self) -> None:
        for end in self.ends:
            end.close()


def _contents(deliveries: Sequence[Delivery]) -> list[tuple[bytes, ...]]:
    return [tuple(map(bytes, delivery.frames)) for delivery in deliveries]


# --- the promises ---------------------------------------------------------------------------------


def _carries_messages_as_they_were_sent(pair: _TransportPair) -> None:
    """A message arrives as it was sent, on its lane, in both directions."""
    name = pair.connect()
    ways = ((pair.dialler, pair.target, pair.listener, name), (pair.listener, name, pair.dialler, pair.target))
    for sender, to, receiver, called in ways:
        for lane in Lane:
            sent = [[b""], *([pair.chance.randbytes(size), b"", b"end"] for size in _SIZES)]
            sent.append([pair.chance.randbytes(pair.chance.randrange(300)) for _ in range(16)])
            for number, frames in enumerate(sent):
                pair.send(sender, to, lane, frames, number if number % 2 else None)
            came = pair.take(receiver, len(sent))
            pair.require(_contents(came) == [tuple(frames) for frames in sent], "what came is not what was sent")
            pair.require({delivery.lane for delivery in came} == {lane}, f"messages left their lane {lane}")
            pair.require({delivery.peer for delivery in came} == {called}, "the peer's name changed")


def _keeps_order_within_a_lane(pair: _TransportPair) -> None:
    """Messages of one lane arrive in order, each once."""
    pair.connect()
    for number in range(500):
        lane = Lane.DATA if number % 3 else Lane.CONTROL
        pair.send(pair.dialler, pair.target, lane, [str(number).encode()])
    came = pair.take(pair.listener, 500)
    for lane in Lane:
        numbers = [int(bytes(delivery.frames[0])) for delivery in came if delivery.lane is lane]
        expected = [number for number in range(500) if (lane is Lane.DATA) == bool(number % 3)]
        pair.require(numbers == expected, f"{lane} came as {numbers[:20]}...")


def _says_no_instead_of_blocking(pair: _TransportPair) -> None:
    """A send to a peer whose queue is full returns False; what was taken still arrives, and nothing else."""
    pair.connect()
    load = bytes(_FLOOD_BYTES)
    taken = 0
    while taken < _FLOOD_MESSAGES_MAX and pair.dialler.send(pair.target, Lane.DATA, [str(taken).encode(), load], taken):
        taken += 1
    pair.require(
        taken < _FLOOD_MESSAGES_MAX, f"{taken} messages were queued and there is no end: a queue needs a limit"
    )
    came = pair.take(pair.listener, taken)
    numbers = [int(bytes(delivery.frames[0])) for delivery in came]
    pair.require(numbers == list(range(taken)), f"{taken} were taken, {len(numbers)} came")


def _keeps_lanes_apart(pair: _TransportPair) -> None:
    """A full data lane leaves the control lane free."""
    pair.connect()
    load = bytes(_FLOOD_BYTES)
    for _ in range(_FLOOD_MESSAGES_MAX):
        if not pair.dialler.send(pair.target, Lane.DATA, [load]):
            break
    is_free = pair.dialler.send(pair.target, Lane.CONTROL, [b"alive"])
    pair.require(is_free, "control was refused because data is full")
    pair.until(lambda: any(_is_alive(came) for came in pair.came[pair.listener]), "the message on the control lane")


def _is_alive(delivery: Delivery) -> bool:
    return delivery.lane is Lane.CONTROL and bytes(delivery.frames[0]) == b"alive"


def _refuses_unknown_peers(pair: _TransportPair) -> None:
    """A send to a peer that is not known returns False and takes nothing."""
    pair.connect()
    for end in pair.ends:
        for lane in Lane:
            is_taken = end.send("nobody/" + "0" * 32, lane, [b"x"], 99)
            pair.require(not is_taken, "it was taken")
    for _ in range(5):
        pair.turn()
    pair.require(not any(pair.let_go.values()), "a buffer was let go of that was never taken")


def _copies_what_is_sent_without_a_token(pair: _TransportPair) -> None:
    """Without a token the buffers may be changed as soon as send returns."""
    pair.connect()
    for size in _SIZES[1:]:
        buffer = bytearray(b"a" * size)
        pair.send(pair.dialler, pair.target, Lane.DATA, [buffer, memoryview(buffer)])
        buffer[:] = b"b" * size
        (came,) = pair.take(pair.listener, 1)
        pair.require(_contents([came]) == [(b"a" * size, b"a" * size)], f"{size} bytes came with the later change")


def _lets_go_of_lent_buffers(pair: _TransportPair) -> None:
    """Each token comes back exactly once, and from then on the buffer may be changed."""
    pair.connect()
    ring = [bytearray(128 << 10) for _ in range(3)]
    free, sent, expected = [0, 1, 2], 0, []
    while sent < 60:
        pair.until(lambda: bool(free) or any(pair.let_go.values()), "a token")
        free.extend(token % 3 for token in pair.let_go[pair.dialler])
        pair.let_go[pair.dialler].clear()
        if not free:
            continue
        slot = free.pop(0)
        ring[slot][:] = bytes([sent + 1]) * len(ring[slot])
        expected.append(bytes([sent + 1]))
        pair.send(pair.dialler, pair.target, Lane.DATA, [memoryview(ring[slot])], sent * 3 + slot)
        sent += 1
        # The other end has not been driven since: who lets go on sending, not on reading, is seen here.
        pair.let_go[pair.dialler].extend(pair.dialler.poll(0).let_go)
    pair.until(lambda: len(free) + len(pair.let_go[pair.dialler]) >= len(ring), "the last tokens")
    came = pair.take(pair.listener, sent)
    marks = [bytes(delivery.frames[0]) for delivery in came]
    is_whole = all(mark == one * len(mark) for mark, one in zip(marks, expected, strict=True))
    pair.require(is_whole, "a buffer was still read after its token had come back")
    pair.require(len(free) + len(pair.let_go[pair.dialler]) == len(ring), "a token came back twice")
    pair.require(not pair.let_go[pair.listener], "a token came back at the other end")


def _polls_up_to_the_limit(pair: _TransportPair) -> None:
    """A poll returns at most as many messages as asked for, and returns at once without one."""
    pair.connect()
    pair.require(pair.listener.poll(10).deliveries == (), "there was a message that nobody sent")
    for number in range(20):
        pair.send(pair.dialler, pair.target, Lane.CONTROL, [str(number).encode()])
    counts: list[int] = []
    for _ in range(_TURNS_MAX):
        if sum(counts) + len(pair.came[pair.listener]) >= 20:
            break
        pair.listener.wait(_TURN_NS, ())
        counts.append(len(pair.listener.poll(3).deliveries))
    pair.require(max(counts, default=0) <= 3, f"3 were asked for, {max(counts, default=0)} came")
    pair.require(sum(counts) + len(pair.came[pair.listener]) == 20, f"20 were sent, {sum(counts)} came")


def _wait_ends_for_a_message(pair: _TransportPair) -> None:
    """A wait ends when a message has come."""
    pair.connect()
    pair.send(pair.dialler, pair.target, Lane.CONTROL, [b"x"])
    came: tuple[Delivery, ...] = ()
    while not came:
        pair.listener.wait(_LONG_NS, ())
        came = pair.listener.poll(1).deliveries
    pair.require(_contents(came) == [(b"x",)], "another message came")


def _wait_ends_for_a_descriptor(pair: _TransportPair) -> None:
    """A wait ends when one of the caller's descriptors is readable, and says so, messages or not."""
    pair.connect()
    reader, writer = os.pipe()
    try:
        os.write(writer, b"x")
        ready = pair.listener.wait(_LONG_NS, (reader,))
        pair.require(reader in ready, "the wait did not say that the descriptor is readable")
        pair.send(pair.dialler, pair.target, Lane.CONTROL, [b"x"])
        for _ in range(_TURNS_MAX):
            ready = pair.listener.wait(_TURN_NS, (reader,))
            pair.require(reader in ready, "the wait passed a readable descriptor over, because of a message")
            if pair.listener.poll(1).deliveries:
                break
    finally:
        os.close(reader)
        os.close(writer)


def _wait_ends_for_a_wake_before_it(pair: _TransportPair) -> None:
    """A wake ends the next wait at once."""
    pair.connect()
    for end in pair.ends:
        end.wake()
        end.wait(_LONG_NS, ())


def _close_is_final_and_idempotent(pair: _TransportPair) -> None:
    """A closed transport refuses to be used, can be closed again, and ignores a late wake."""
    pair.connect()
    for end in pair.ends:
        end.close()
        end.close()
        end.wake()
        for name, use in (("poll", lambda end=end: end.poll(1)), ("wait", lambda end=end: end.wait(0, ()))):
            try:
                use()  # type: ignore[no-untyped-call]
            except ClosedError:
                continue
            pair.require(False, f"{name} after close raised no ClosedError")


def _survives_the_end_of_its_peer(pair: _TransportPair) -> None:
    """When the peer closes, lent buffers come back and nothing raises."""
    pair.connect()
    load = bytes(20_000)
    taken = [token for token in range(10) if pair.dialler.send(pair.target, Lane.DATA, [load], token)]
    pair.listener.close()
    taken += [token for token in range(10, 20) if pair.dialler.send(pair.target, Lane.DATA, [load], token)]
    back: list[int] = []
    for _ in range(_TURNS_MAX):
        if sorted(back) == taken:
            break
        pair.dialler.wait(_TURN_NS, ())
        back.extend(pair.dialler.poll(8).let_go)
    pair.require(sorted(back) == taken, f"tokens {taken} were taken, {back} came back")


_CLAUSES: Final = (
    _carries_messages_as_they_were_sent,
    _keeps_order_within_a_lane,
    _says_no_instead_of_blocking,
    _keeps_lanes_apart,
    _refuses_unknown_peers,
    _copies_what_is_sent_without_a_token,
    _lets_go_of_lent_buffers,
    _polls_up_to_the_limit,
    _wait_ends_for_a_message,
    _wait_ends_for_a_descriptor,
    _wait_ends_for_a_wake_before_it,
    _close_is_final_and_idempotent,
    _survives_the_end_of_its_peer,
)


def _check_wake(make_pair: MakePair, patience_seconds: float) -> None:
    promise = "A wake from elsewhere ends a wait that is under way"
    for which in (0, 1):
        ends = make_pair()
        try:
            with patience(promise, patience_seconds, soon=ends[which].wake):
                ends[which].wait(_LONG_NS, ())
        finally:
            for end in ends:
                end.close()


def _check_nothing_left_behind(make_pair: MakePair, patience_seconds: float) -> None:
    promise = "Close gives back all descriptors and threads"
    before = _held()
    for number in range(3):
        with patience(promise, patience_seconds):
            pair = _TransportPair(make_pair, promise, random.Random(0))
            try:
                pair.connect()
                pair.send(pair.dialler, pair.target, Lane.DATA, [bytes(100_000)], 1)
                pair.until(lambda pair=pair: bool(pair.let_go[pair.dialler]), "a token")  # type: ignore[misc]
            finally:
                pair.close()
        held = _held()
        if number:  # the first time may start what a library keeps for the life of the process
            for _ in range(_LINGER_LOOKS):
                if _is_no_more(held, before):
                    break
                select.select((), (), (), _LINGER_SECONDS)
                held = _held()
            require(_is_no_more(held, before), promise, f"(descriptors, threads) grew from {before} to {held}")
        before = held


def _held() -> tuple[int, int]:
    """Return how many descriptors and threads this process has. A thread that was joined is listed for a moment yet."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


def _is_no_more(held: tuple[int, int], before: tuple[int, int]) -> bool:
    return held[0] <= before[0] and held[1] <= before[1]
