"""How a guest stands on a host is told truly: protected only if a standby could take over now, and why if not."""

from dataclasses import dataclass, field

import pytest

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import ArbiterError, GuestError
from ftvm.interfaces import Record
from ftvm.protocol.active.link import LinkState
from ftvm.protocol.core import Role
from ftvm.runtime.standing import Reasons, Standing, Standings, State
from ftvm.testing.pair import Pair, SteppedHost
from ftvm.units import Nanos

from ..protocol import harness


@dataclass
class Store:
    """Keeps tests' records, and answers only while it is up."""

    is_up: bool = True
    records: MemoryRecordStore = field(default_factory=MemoryRecordStore)

    def read(self, guest_id: str) -> Record:
        self._check()
        return self.records.read(guest_id)

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        self._check()
        return self.records.compare_and_set(guest_id, record)

    def place_id(self, guest_id: str) -> str | None:
        return self.records.place_id(guest_id)

    def close(self) -> None:
        self.records.close()

    def _check(self) -> None:
        if not self.is_up:
            raise ArbiterError("no route to the arbiter")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def pair(store: Store) -> Pair:
    return Pair(store=store).protected()


def stand(host: SteppedHost) -> tuple[str, str]:
    status = host.driver.status(host.clock.now())
    return status.state, status.reason


def look_at(host: harness.Host, failure: GuestError | None = None) -> Standing:
    return Standings(Reasons(), Nanos(0)).look(host.replica.view(), failure, Nanos(1))


def test_a_pair_that_is_well_is_protected_and_a_standby_with_nothing_to_add(pair: Pair) -> None:
    assert (stand(pair.a), stand(pair.b)) == (("protected", ""), ("standby", ""))


def test_without_the_arbiter_a_pair_says_since_when_no_takeover_is_possible(pair: Pair, store: Store) -> None:
    """Regression: with the arbiter's folder away, status said `protected`, and nothing else told it."""
    store.is_up = False

    pair.run(5_000)

    told = "the arbiter cannot be used: no route to the arbiter"
    assert (stand(pair.a), stand(pair.b)) == (("no takeover", told), ("standby unable", told))
    seconds = [host.driver.status(host.clock.now()).state_seconds for host in (pair.a, pair.b)]
    assert min(seconds) > 3.9
    assert max(seconds) <= 5.0
    assert not pair.a.driver.status(pair.clock.now()).is_protected


def test_an_arbiter_that_answers_again_ends_the_trouble(pair: Pair, store: Store) -> None:
    store.is_up = False
    pair.run(3_000)

    store.is_up = True
    pair.run(1_500)

    assert (stand(pair.a), stand(pair.b)) == (("protected", ""), ("standby", ""))


def test_a_request_that_hangs_counts_as_unanswered_after_two_seconds(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount that hangs reports no error, ever."""
    monkeypatch.setattr(pair.a.arbiter, "poll", lambda: None)

    pair.run(1_800)
    soon = stand(pair.a)[0]
    pair.run(2_000)

    assert soon == "protected"
    assert stand(pair.a) == ("no takeover", "the arbiter has not answered for 3 s")


def test_a_guest_whose_outputs_wait_for_a_drop_stands_still_and_says_why(pair: Pair, store: Store) -> None:
    """Regression: with etcd dead and the standby stopped, status said `protected`, for as long as no output left."""
    store.is_up = False
    pair.kill(pair.b)

    pair.run(3_000)

    state, reason = stand(pair.a)
    assert state == "standing still"
    assert reason.startswith("its standby is gone: the standby was silent for ")
    assert "; its outputs wait until the arbiter drops it (" in reason
    assert reason.endswith(" of them); the arbiter cannot be used: no route to the arbiter")


def test_a_guest_that_lost_its_standby_says_that_it_had_one_and_how_it_went(pair: Pair) -> None:
    """Regression: status said `no standby has joined`, though one had."""
    pair.kill(pair.b)

    pair.run(2_000)

    state, reason = stand(pair.a)
    assert state == "unprotected"
    assert reason.startswith("its standby is gone: the standby was silent for ")


def test_a_guest_that_was_taken_over_says_so_as_long_as_it_is_alone(pair: Pair) -> None:
    """Regression: status said `no standby has joined` where this host had itself been the standby."""
    pair.kill(pair.a)

    pair.run(2_000)

    assert stand(pair.b) == ("unprotected", "this host took it over, and no standby has joined since")


def test_a_standby_that_waits_for_the_arbiter_to_take_over_says_so(pair: Pair, store: Store) -> None:
    """Regression: `standby here`, exit status 0, while the guest ran nowhere."""
    store.is_up = False
    pair.kill(pair.a)

    pair.run(3_000)

    told = "the active is silent, and the arbiter cannot be used: no route to the arbiter"
    assert stand(pair.b) == ("standby unable", told)


def test_a_standby_whose_guests_process_does_not_answer_says_so_until_it_does(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: `standby here`, exit status 0, though a takeover would have waited for a QEMU that hangs."""
    silent = "QEMU has not answered query-status for 3 s"
    with monkeypatch.context() as hangs:
        hangs.setattr(pair.b.driver._runner, "silence", lambda: silent)
        pair.run(2_000)
        status = pair.b.driver.status(pair.clock.now())
    pair.run(200)

    assert (status.state, status.reason) == ("standby unable", silent)
    assert 1.8 < status.state_seconds <= 2.0
    assert stand(pair.a) == ("protected", "")
    assert stand(pair.b) == ("standby", "")


def test_a_first_copy_is_told_by_both_hosts() -> None:
    pair = Pair()
    pair.until(lambda: pair.b.role is Role.SYNCING)

    status = pair.a.driver.status(pair.clock.now())

    assert (status.state, status.reason) == ("syncing", "it is unprotected until a standby has caught up")
    assert status.copy_pages_left + status.copy_pages_sent > 0
    assert stand(pair.b)[0] == "syncing"
    assert stand(pair.b)[1].endswith(" pages of the first copy have come")


def test_a_guest_that_never_had_a_standby_and_a_host_that_nobody_lets_in_say_so() -> None:
    pair = Pair()
    pair.cut_off("a", "b")

    pair.run(500)

    assert stand(pair.a) == ("unprotected", "no standby has joined")
    assert stand(pair.b) == ("joining", "no active host has let this one join")


def test_a_host_that_waits_though_the_record_has_no_active_says_what_to_do(pair: Pair) -> None:
    pair.a.driver.stop(GuestError("a test"))
    pair.run(3_000)
    pair.b.driver.stop(GuestError("a test"))
    pair.run(3_000)
    waiting = pair.boot("c", "a")

    pair.run(12_000)

    assert stand(waiting) == ("joining", "the record has no active host: start the guest with `ftvm run`")


def test_a_guest_that_may_not_run_alone_says_why_it_stands_still() -> None:
    pair = harness.Pair(harness.make_settings(halts_alone=True)).protected()
    pair.b.sent.clear()
    for _ in range(200):
        pair.elapse(10)
        pair.a.tick()
        pair.a.sent.clear()

    assert look_at(pair.a).state is State.STANDING_STILL
    assert look_at(pair.a).reason.endswith("it may not run without one (on-backup-loss = halt)")


def test_a_guest_that_is_handed_over_stands_still_meanwhile() -> None:
    pair = harness.Pair().protected()
    pair.a.active.link = LinkState.SWITCHING

    assert look_at(pair.a).state is State.STANDING_STILL
    assert look_at(pair.a).reason == "it is being handed over to its standby"


def test_a_host_that_cannot_go_on_has_failed_whatever_its_role() -> None:
    pair = harness.Pair().protected()

    assert look_at(pair.a, GuestError("QEMU was killed")) == Standing(
        state=State.FAILED, reason="QEMU was killed", since=Nanos(1)
    )


def test_a_state_keeps_its_beginning_until_another_begins(pair: Pair) -> None:
    pair.run(1_000)

    before = pair.a.driver.status(pair.clock.now()).state_seconds
    pair.run(1_000)
    after = pair.a.driver.status(pair.clock.now()).state_seconds

    assert after - before == pytest.approx(1.0)


def test_each_host_tells_how_much_silence_of_the_other_it_allows(pair: Pair) -> None:
    told = [host.driver.status(pair.clock.now()) for host in (pair.a, pair.b)]
    pair.kill(pair.b)
    pair.run(3_000)
    alone = pair.a.driver.status(pair.clock.now())

    assert [status.silence_ms for status in told] == [500.0, 300.0]
    assert all(status.silence_ms <= status.silence_limit_ms <= 10 * status.silence_ms for status in told)
    assert (alone.silence_ms, alone.silence_limit_ms) == (0.0, 0.0)
