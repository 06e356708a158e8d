"""Whoever looks on sees each commit, once its acknowledgement is on its way, and is told before the guest runs here."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from ftvm.checkpoint import Commit, LogKind, LogRecord
from ftvm.config import Limits
from ftvm.encode.messages import Ack
from ftvm.encode.versions import FIRST
from ftvm.encode.wire import decode
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.kemari import Kemari
from ftvm.engines.lockstep import Lockstep
from ftvm.engines.remus import Remus
from ftvm.interfaces import Engine, Guest, Lane
from ftvm.protocol.view import Role
from ftvm.testing.pair import Pair
from ftvm.units import PAGE_BYTES


class Watcher:
    """Keeps what it is shown, with the memory as it is then."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        self.shown: list[object] = []
        self.memories: list[bytes] = []

    def committed(self, commits: Sequence[Commit]) -> None:
        self.shown += commits
        self.memories.append(b"".join(region.buffer for region in self.guest.memory))

    def ended(self) -> None:
        self.shown.append("ended")

    @property
    def commits(self) -> list[Commit]:
        return [each for each in self.shown if isinstance(each, Commit)]


def watched_pair(engine: Engine, *names: str, **options: Any) -> tuple[Pair, Watcher]:
    """Return a pair, and who looks on as B commits; the hosts named, too, have somebody who does."""
    made: list[Watcher] = []

    def watch(guest: Guest) -> Watcher:
        made.append(Watcher(guest))
        return made[-1]

    pair = Pair(engine=engine, observers={"b": watch} | dict.fromkeys(names, Watcher), **options).protected(400)
    return pair, made[0]


@pytest.mark.parametrize("engine", [Remus(interval=0.02), Kemari(), Hybrid(interval=0.02)])
def test_all_commits_are_shown_in_order_and_each_extends_the_one_before(engine: Engine) -> None:
    pair, watcher = watched_pair(engine)

    epochs = [commit.checkpoint.epoch for commit in watcher.commits]

    assert len(epochs) > 3
    assert epochs == list(range(epochs[0], pair.b.standby.epoch + 1))
    assert [commit.is_first for commit in watcher.commits] == [True] + [False] * (len(epochs) - 1)
    assert all(b.checkpoint.base == a for a, b in zip(epochs, watcher.commits[1:], strict=False))
    assert {commit.lineage for commit in watcher.commits} == {pair.a.id}
    pair.close()


def test_a_commit_is_shown_behind_its_acknowledgement() -> None:
    pair, watcher = watched_pair(Remus(interval=0.02))
    order: list[tuple[str, int]] = []
    send: Callable[..., bool] = pair.b.transport.send

    def sending(peer: str, lane: Lane, frames: Any, token: int | None = None) -> bool:
        message = decode(tuple(frames), Limits())[1]
        if isinstance(message, Ack):
            order.append(("acknowledged", message.epoch))
        return send(peer, lane, frames, token)

    pair.b.transport.send = sending  # type: ignore[method-assign]
    watcher.committed = lambda commits: order.extend(("shown", each.checkpoint.epoch) for each in commits)  # type: ignore[method-assign]

    pair.run(200)

    shown = [epoch for what, epoch in order if what == "shown"]
    assert len(shown) > 3
    assert all(order.index(("acknowledged", epoch)) < order.index(("shown", epoch)) for epoch in shown)
    pair.close()


def test_before_the_guest_runs_here_all_is_shown_and_the_end_is_told() -> None:
    pair, watcher = watched_pair(Remus(interval=0.02))
    last = pair.b.standby.epoch

    pair.kill(pair.a)
    resumed = pair.b.guest.resume
    pair.b.guest.resume = lambda: (watcher.shown.append("runs"), resumed())[1]  # type: ignore[method-assign]
    pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert watcher.commits[-1].checkpoint.epoch == last
    assert watcher.shown[-2:] == ["ended", "runs"] or watcher.shown.index("ended") < watcher.shown.index("runs")
    pair.close()


def test_under_lockstep_commits_say_that_they_were_executed() -> None:
    pair, watcher = watched_pair(Lockstep())

    first, *others = watcher.commits

    assert not first.is_executed
    assert others
    assert all(commit.is_executed and not commit.checkpoint.batches for commit in others)
    assert all(b.checkpoint.base == a.checkpoint.epoch for a, b in pairwise(watcher.commits))
    assert "ended" not in watcher.shown
    pair.close()


def test_an_executed_commit_names_all_pages_that_changed_since_the_one_before() -> None:
    pair, watcher = watched_pair(Lockstep())

    executed = [commit for commit in watcher.commits if commit.is_executed]
    for commit, (before, after) in zip(executed, pairwise(watcher.memories), strict=True):
        pages = range(0, len(before), PAGE_BYTES)
        changed = {at // PAGE_BYTES for at in pages if before[at : at + PAGE_BYTES] != after[at : at + PAGE_BYTES]}
        assert changed <= set(commit.written)

    assert any(commit.written for commit in executed)
    pair.close()


def test_an_executed_commit_has_the_outputs_that_the_guest_made_since_the_one_before() -> None:
    pair, watcher = watched_pair(Lockstep())

    first, *others = watcher.commits
    numbers = [output.number for commit in others for output in commit.checkpoint.outputs]

    assert len(numbers) > 3
    assert numbers == list(range(first.checkpoint.output_next, others[-1].checkpoint.output_next))
    pair.close()


def test_the_end_is_told_before_a_guest_that_executed_here_runs_on() -> None:
    pair, watcher = watched_pair(Lockstep())

    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)

    assert watcher.shown[-1] == "ended"
    pair.close()


def test_the_log_comes_with_the_epoch_that_covers_it() -> None:
    pair, watcher = watched_pair(Hybrid(interval=0.02))

    records = [record for commit in watcher.commits for record in commit.log]

    assert records
    assert [record.index for record in records] == list(range(records[0].index, records[-1].index + 1))
    assert all(commit.log[-1].index <= commit.checkpoint.log_index for commit in watcher.commits if commit.log)
    pair.close()


def records_of(watcher: Watcher) -> list[LogRecord]:
    return [record for commit in watcher.commits for record in commit.log]


@pytest.mark.parametrize("engine", [Remus(interval=0.02), Kemari()])
def test_where_both_hosts_record_the_log_comes_under_each_engine(engine: Engine) -> None:
    pair, watcher = watched_pair(engine, "a")
    for number in range(10):
        pair.a.world.put("net0", b"%d" % number)
        pair.run(20)

    first, *others = watcher.commits

    assert any(record.kind is LogKind.INPUT for record in records_of(watcher))
    for before, commit in pairwise((first, *others)):
        start, end = before.checkpoint.log_index, commit.checkpoint.log_index
        assert [record.index for record in commit.log] == list(range(start + 1, end + 1))
    pair.close()


@pytest.mark.parametrize("engine", [Remus(interval=0.02), Kemari()])
def test_a_log_that_the_engine_does_not_need_is_no_part_of_the_state(engine: Engine) -> None:
    pair, watcher = watched_pair(engine, "a")
    released = len(pair.a.released)

    for _ in range(100):
        pair.run(1)
        assert not pair.b.standby.log
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.b.guest.is_running)
    pair.run(100)

    assert records_of(watcher)
    assert len({output.number: output for output in (*pair.a.released, *pair.b.released)}) > released
    pair.close()


@pytest.mark.parametrize("names", [(), ("a",)])
def test_a_log_is_shipped_only_where_the_active_records_and_the_other_host_knows_what_it_is(names: Any) -> None:
    versions = {"b": FIRST} if names else {}
    pair, watcher = watched_pair(Remus(interval=0.02), *names, versions=versions)

    assert len(watcher.commits) > 3
    assert records_of(watcher) == []
    pair.close()


def test_a_change_of_engine_leaves_no_gap_in_the_log_where_both_hosts_record() -> None:
    pair, watcher = watched_pair(Remus(interval=0.02), "a")
    for engine in (Hybrid(interval=0.02), Kemari(), Lockstep(interval=0.02), Remus(interval=0.02), Hybrid()):
        pair.a.driver.set_engine(engine)
        pair.run(300)

    indices = [record.index for record in records_of(watcher)]

    assert {commit.checkpoint.engine for commit in watcher.commits} == {"remus", "kemari", "lockstep", "hybrid"}
    assert indices == list(range(indices[0], indices[-1] + 1))
    pair.close()


def test_nobody_is_asked_to_look_on_where_nobody_does() -> None:
    pair = Pair().protected(100)

    assert not pair.b.driver.settings.is_observed
    pair.close()
