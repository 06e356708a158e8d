"""Both hosts of a pair record through takeovers, switchovers, changes of engine: no epoch ever restores to another."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ftvm._native.memory import NativeMemory
from ftvm.checkpoint import Commit
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.errors import HistoryError
from ftvm.history.basing import PortionReader
from ftvm.history.pipeline import Break, Pipeline, Queued
from ftvm.history.restore import RestoredMemory
from ftvm.interfaces import Guest
from ftvm.protocol.view import Role
from ftvm.store.retention import Keep
from ftvm.store.store import HistoryOwner, Store
from ftvm.testing.pair import MS, Pair
from ftvm.units import PAGE_BYTES, Nanos

ENGINES = {each.name: each for each in (Remus(interval=0.02), Hybrid(interval=0.02), Lockstep())}


class Recording:
    """What a host records, without a thread: it looks round when the test says."""

    def __init__(self, folder: Path, guest: Guest) -> None:
        self.store = Store(folder, writes=True, creates=True)
        self.store.claim(HistoryOwner(guest_id="vm", geometry=guest.geometry))
        self.calls = self.lifetime = 0
        self.queue: list[Queued | Break] = []
        memory = NativeMemory([region.buffer for region in guest.memory])
        self.pipeline = Pipeline(
            self.store,
            Keep(),
            PortionReader(memory, portion_pages=5),
            host=folder.name,
            calls=lambda: self.calls,
            lifetime=lambda: self.lifetime,
            on_gap=lambda _: None,
        )

    def committed(self, commits: Sequence[Commit]) -> None:
        self.calls += 1
        for commit in commits:
            self.queue.append(Queued(commit, self.calls * 20_000_000, self.calls, commit is commits[-1]))

    def ended(self) -> None:
        self.lifetime += 1
        self.queue.append(Break("the guest runs here", is_gap=False))

    def look(self) -> None:
        queue, self.queue = self.queue, []
        self.pipeline.take(queue)
        self.pipeline.turn()

    def finish(self) -> None:
        self.look()
        self.pipeline.finish("the test ended")
        self.store.close()


def live(pair: Pair, recordings: list[Recording], chance: random.Random, rounds: int) -> None:
    for _ in range(rounds):
        pair.run(chance.randrange(1, 30))
        for each in recordings:
            if chance.random() < 0.7:
                each.look()


def restored(folder: Path) -> int:
    """Return how many epochs can be restored; a wrong digest is a failure."""
    count = 0
    with Store(folder) as store:
        buffer = bytearray(store.page_count * PAGE_BYTES)
        for stream in store.catalogue.streams():
            for number in sorted({point[0] for point in store.catalogue.points(stream.id, 0, 1 << 62)}):
                try:
                    RestoredMemory(store, stream.id, [buffer]).go_to(number)
                    count += 1
                except HistoryError as wrong:
                    assert "another digest" not in str(wrong), wrong  # noqa: PT017
    return count


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_to_a_pair_no_epoch_restores_to_another(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    recordings: list[Recording] = []

    def record(name: str) -> Callable[[Guest], Recording]:
        def make(guest: Guest) -> Recording:
            recordings.append(Recording(tmp_path / f"{name}{len(recordings)}", guest))
            return recordings[-1]

        return make

    pair = Pair(engine=ENGINES["remus"], engines=ENGINES, observers={"a": record("a"), "b": record("b")})
    pair.protected()
    for _ in range(5):
        live(pair, recordings, chance, 12)
        active = next(host for host in pair.alive if host.role is Role.ACTIVE)
        other = next(host for host in pair.alive if host is not active)
        match chance.choice(["switch", "kill", "engine", "live"]):
            case "switch":
                active.driver.begin_switchover(Nanos(5_000 * MS))
                pair.until(lambda other=other: other.role is Role.ACTIVE)
            case "kill":
                pair.kill(active)
                pair.until(lambda other=other: other.role is Role.ACTIVE)
                pair.boot(active.name, other.name)
                pair.until(lambda: pair.record().standby is not None)
            case "engine":
                active.driver.set_engine(ENGINES[chance.choice(list(ENGINES))])
            case _:
                pass
    live(pair, recordings, chance, 12)
    for each in recordings:
        each.finish()
    pair.close()

    counts = [restored(each.store.folder) for each in recordings]

    assert sum(counts) > 20, counts
