"""Each transport here breaks one promise, and check_transport names it."""

import os
import select
from collections.abc import Callable, Collection, Sequence
from queue import SimpleQueue

import pytest

from ftvm.checkpoint import Buffer
from ftvm.interfaces import Delivery, Lane, Polled
from ftvm.testing.contract import ContractBroken
from ftvm.testing.transport import check_transport
from ftvm.transport.memory import MemoryNetwork, MemoryTransport


class Honest:
    """Passes everything on; the base of what is broken below."""

    def __init__(self, inner: MemoryTransport) -> None:
        self.inner = inner

    @property
    def dialled(self) -> tuple[str, ...]:
        return self.inner.dialled

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        return self.inner.send(peer, lane, frames, token)

    def poll(self, limit: int) -> Polled:
        return self.inner.poll(limit)

    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Collection[int]:
        return self.inner.wait(timeout_ns, fds)

    def wake(self) -> None:
        self.inner.wake()

    def close(self) -> None:
        self.inner.close()


def changed(delivery: Delivery, **changes: object) -> Delivery:
    fields = {name: getattr(delivery, name) for name in ("peer", "key", "lane", "frames")}
    return Delivery(**(fields | changes))  # type: ignore[arg-type]


class Reorders(Honest):
    def poll(self, limit: int) -> Polled:
        polled = super().poll(limit)
        return Polled(polled.deliveries[::-1], polled.let_go)


class Alters(Honest):
    def poll(self, limit: int) -> Polled:
        polled = super().poll(limit)
        return Polled(tuple(map(self.alter, polled.deliveries)), polled.let_go)

    def alter(self, delivery: Delivery) -> Delivery:
        frames = tuple(b"x" + bytes(frame)[1:] if len(frame) == 4096 else frame for frame in delivery.frames)
        return changed(delivery, frames=frames)


class DropsEmptyFrames(Alters):
    def alter(self, delivery: Delivery) -> Delivery:
        return changed(delivery, frames=tuple(filter(len, delivery.frames)))


class MixesLanes(Alters):
    def alter(self, delivery: Delivery) -> Delivery:
        return changed(delivery, lane=Lane.DATA)


class RenamesPeers(Alters):
    count = 0

    def alter(self, delivery: Delivery) -> Delivery:
        self.count += 1
        return changed(delivery, peer=f"{delivery.peer} {self.count}")


class Repeats(Honest):
    def poll(self, limit: int) -> Polled:
        polled = super().poll(limit)
        return Polled(polled.deliveries * 2, polled.let_go)


class Loses(Honest):
    count = 0

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        self.count += 1
        return True if self.count % 30 == 0 and token is None else super().send(peer, lane, frames, token)


class Blocks(Honest):
    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        if peer not in self.dialled:
            return super().send(peer, lane, frames, token)
        while not super().send(peer, lane, frames, token):
            select.select((), (), (), 0.01)
        return True


class BlocksInPoll(Honest):
    def poll(self, limit: int) -> Polled:
        polled = super().poll(limit)
        if not polled.deliveries and not polled.let_go and not self.dialled:
            SimpleQueue[None]().get()
        return polled


class HasNoLimit(Honest):
    def __init__(self, inner: MemoryTransport) -> None:
        super().__init__(inner)
        self.backlog: list[tuple[str, Lane, list[bytes], int | None]] = []

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        self.backlog.append((peer, lane, list(map(bytes, frames)), token))
        return True

    def poll(self, limit: int) -> Polled:
        while self.backlog and super().send(*self.backlog[0]):
            self.backlog.pop(0)
        return super().poll(limit)


class OneQueueForBothLanes(Honest):
    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        pipes = [pipe for pipe in self.inner._pipes.values() if pipe.lane is Lane.DATA]
        is_full = any(pipe.messages.qsize() >= 60 for pipe in pipes)
        return False if is_full else super().send(peer, lane, frames, token)


class TakesForNobody(Honest):
    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        return super().send(peer, lane, frames, token) or "nobody" in peer


class NeverCopies(Honest):
    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        return super().send(peer, lane, frames, -1 if token is None else token)

    def poll(self, limit: int) -> Polled:
        polled = super().poll(limit)
        return Polled(polled.deliveries, tuple(token for token in polled.let_go if token >= 0))


class LetsGoEarly(Honest):
    def __init__(self, inner: MemoryTransport) -> None:
        super().__init__(inner)
        self.early: list[int] = []

    def send(self, peer: str, lane: Lane, frames: Sequence[Buffer], token: int | None = None) -> bool:
        is_taken = super().send(peer, lane, frames, token)
        if is_taken and token is not None:
            self.early.append(token)
        return is_taken

    def poll(self, limit: int) -> Polled:
        early, self.early = self.early, []
        return Polled(super().poll(limit).deliveries, tuple(early))


class LetsGoTwice(Honest):
    def poll(self, limit: int) -> Polled:
        polled = super().poll(limit)
        return Polled(polled.deliveries, polled.let_go * 2)


class NeverLetsGo(Honest):
    def poll(self, limit: int) -> Polled:
        return Polled(super().poll(limit).deliveries, ())


class IgnoresTheLimit(Honest):
    def poll(self, limit: int) -> Polled:
        return super().poll(max(limit, 1000))


class SleepsThroughWakes(Honest):
    def wake(self) -> None:
        return


class SleepsThroughDescriptors(Honest):
    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Collection[int]:
        return super().wait(timeout_ns, fds[:0])


class PassesDescriptorsOver(Honest):
    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Collection[int]:
        return super().wait(timeout_ns, fds) if self.inner._arrivals.empty() else ()


class SleepsThroughMessages(Honest):
    def wait(self, timeout_ns: int, fds: Sequence[int]) -> Collection[int]:
        awaited = [self.inner._waker.fileno(), *fds] if timeout_ns < 10**10 else fds
        return select.select(awaited, (), (), timeout_ns / 1e9)[0]


class WorksOnceClosed(Honest):
    is_closed = False

    def poll(self, limit: int) -> Polled:
        return Polled((), ()) if self.is_closed else super().poll(limit)

    def close(self) -> None:
        self.is_closed = True
        super().close()


class CannotBeClosedTwice(WorksOnceClosed):
    def close(self) -> None:
        if self.is_closed:
            raise OSError("closed already")
        super().close()


class LeaksDescriptors(Honest):
    leaked: list[int] = []  # noqa: RUF012 -- what it leaks outlives it

    def close(self) -> None:
        self.leaked.append(os.dup(0))
        super().close()


class KeepsWhatItsPeerNeverRead(Honest):
    is_orphaned = False

    def poll(self, limit: int) -> Polled:
        polled = super().poll(limit)
        self.is_orphaned |= len(polled.let_go) > 5
        return Polled(polled.deliveries, () if self.is_orphaned else polled.let_go)


BROKEN = [
    (Reorders, "A message arrives as it was sent|Messages of one lane arrive in order"),
    (Alters, "A message arrives as it was sent"),
    (DropsEmptyFrames, "A message arrives as it was sent"),
    (MixesLanes, "first message of each lane|A message arrives as it was sent"),
    (RenamesPeers, "one dialler has the names"),
    (Repeats, "what came is not what was sent"),
    (Loses, "arrive in order, each once|what came is not what was sent"),
    (Blocks, "still hung"),
    (BlocksInPoll, "still hung"),
    (HasNoLimit, "a queue needs a limit"),
    (OneQueueForBothLanes, "A full data lane leaves the control lane free"),
    (TakesForNobody, "A send to a peer that is not known returns False"),
    (NeverCopies, "Without a token the buffers may be changed"),
    (LetsGoEarly, "a buffer was still read after its token had come back"),
    (LetsGoTwice, "Each token comes back exactly once"),
    (NeverLetsGo, "Each token comes back exactly once"),
    (IgnoresTheLimit, "A poll returns at most as many"),
    (SleepsThroughWakes, "A wake ends the next wait at once: still hung"),
    (SleepsThroughDescriptors, "descriptors is readable, and says so, messages or not: still hung"),
    (PassesDescriptorsOver, "passed a readable descriptor over, because of a message"),
    (SleepsThroughMessages, "A wait ends when a message has come: still hung"),
    (WorksOnceClosed, "poll after close raised no ClosedError"),
    (LeaksDescriptors, "Close gives back all descriptors and threads"),
    (KeepsWhatItsPeerNeverRead, "lent buffers come back"),
]


def pairs_of(kind: Callable[[MemoryTransport], Honest]) -> Callable[[], tuple[Honest, Honest]]:
    def make_pair() -> tuple[Honest, Honest]:
        network = MemoryNetwork()
        listener = network.transport("listener")
        return kind(network.transport(peers=["listener"])), kind(listener)

    return make_pair


def test_honest_transport_passes() -> None:
    check_transport(pairs_of(Honest))


@pytest.mark.parametrize(("kind", "complaint"), BROKEN, ids=[kind.__name__ for kind, _ in BROKEN])
def test_broken_transport_is_found(kind: type[Honest], complaint: str) -> None:
    with pytest.raises(ContractBroken, match=complaint):
        check_transport(pairs_of(kind), patience_seconds=2.0)

    while LeaksDescriptors.leaked:
        os.close(LeaksDescriptors.leaked.pop())


def test_transport_that_cannot_be_closed_twice_is_found() -> None:
    with pytest.raises(OSError, match="closed already"):
        check_transport(pairs_of(CannotBeClosedTwice))
