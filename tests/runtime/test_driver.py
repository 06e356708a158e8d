"""The driver with the simulator's guest over the in-process transport: captures, limits, takeovers, statuses."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import get_args

import pytest

from ftvm.config import Limits
from ftvm.engines.hybrid import Hybrid
from ftvm.engines.remus import Remus
from ftvm.errors import ClosedError
from ftvm.events import Committed, GuestWarned, PeerMisbehaved, SessionEnded, TookOver
from ftvm.interfaces import Capability, OutputSink, Record
from ftvm.protocol.effects import Effect
from ftvm.protocol.view import Role
from ftvm.runtime.world import CallbackWorld
from ftvm.sim.guest import SimGuest
from ftvm.testing.pair import Pair
from ftvm.units import PAGE_BYTES, Nanos

from ..walk.oneturn import OneTurn
from .failing import failing_pairs, guest_of

make_pair = pytest.fixture(failing_pairs)


def test_a_standby_follows_and_outputs_flow(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    before = len(pair.a.released)

    pair.run(200)

    numbers = [output.number for output in pair.a.released]
    assert len(numbers) > before
    assert numbers == list(range(1, len(numbers) + 1))
    assert pair.b.standby.epoch is not None


def test_a_guest_that_does_nothing_is_not_cut_until_it_writes(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    guest_of(pair).is_idle = True
    pair.run(100)
    epochs = [pair.a.active.epoch]
    pair.run(500)
    epochs.append(pair.a.active.epoch)
    goes_on = pair.a.guest.is_running

    guest_of(pair).is_idle = False
    pair.a.guest.advance()
    guest_of(pair).is_idle = True
    pair.run(50)

    assert epochs[0] == epochs[1]
    assert goes_on
    assert pair.a.active.epoch == epochs[1] + 1
    assert pair.b.standby.epoch == pair.a.active.epoch


class SocketWorld(CallbackWorld):
    """It has a descriptor to wait on."""

    def fds(self) -> tuple[int, ...]:
        return (7,)


def test_a_host_wakes_for_no_input_while_its_guest_stands_still_and_takes_it_with_the_next_step() -> None:
    pair = Pair().protected()
    driver, world = pair.a.driver, SocketWorld()
    driver._world = world
    waits_on = [driver.fds()]

    driver._runner.stall()
    waits_on.append(driver.fds())
    world.put("net0", b"frame")
    pair.a.endpoint.step(pair.clock.now(), [])
    waits_on.append(driver.fds())

    assert waits_on == [(7,), (), (7,)]
    guest = pair.a.guest
    assert isinstance(guest, SimGuest)
    assert guest._inputs == deque([b"frame"])


def test_a_standby_waits_on_its_world_though_its_guest_stands_still() -> None:
    pair = Pair().protected()
    pair.b.driver._world = SocketWorld()

    assert pair.b.driver.fds() == (7,)


def test_a_guest_that_asks_for_a_cut_gets_it_before_it_is_due_and_no_other() -> None:
    sinks: list[OutputSink] = []

    class Asking(SimGuest):
        def attach(self, sink: OutputSink) -> None:
            sinks.append(sink)
            super().attach(sink)

    asking = partial(Asking, page_count=24, pages_per_step=2, output_every=1)
    with closing(Pair(engine=Remus(interval=10.0), guest=lambda boots: asking(boots=boots)).protected()) as pair:
        pair.run(100)
        epochs = [pair.a.active.epoch]

        sinks[0].want_cut()
        for _ in range(2):
            pair.run(100)
            epochs.append(pair.a.active.epoch)

        assert [epoch - epochs[0] for epoch in epochs] == [0, 1, 1]


def test_a_guest_that_does_nothing_is_cut_once_a_second(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    guest_of(pair).is_idle = True
    pair.run(1_100)
    epoch = pair.a.active.epoch

    pair.run(3_000)

    assert 2 <= pair.a.active.epoch - epoch <= 3


def test_a_takeover_goes_on_from_exactly_what_was_cut(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    prints: dict[int, bytes] = {}
    pair.a.guest.on_saved = lambda fingerprint: prints.update({pair.a.active.epoch + 1: fingerprint})
    pair.protected()
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.b.guest.is_running)

    took_over = pair.b.told(TookOver)[0]

    assert prints[took_over.epoch] == pair.b.guest.fingerprint()


def test_a_takeover_repeats_or_continues_the_outputs_and_contradicts_none(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.run(200)

    before = {output.number: output.payload for output in pair.a.released}
    after = {output.number: output.payload for output in pair.b.released}
    assert min(after) <= max(before) + 1
    assert all(before[number] == after[number] for number in before.keys() & after.keys())
    assert max(after) > max(before)


def test_a_host_that_is_stopped_hands_the_guest_over(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    pair.a.driver.stop(ClosedError("maintenance"))
    pair.until(lambda: pair.a.driver.stopped)
    pair.run(20)

    assert pair.a.driver.stopped.is_in_order
    assert not pair.a.guest.is_running
    assert pair.b.role is Role.ACTIVE
    assert pair.record() == Record(4, "b1", None)  # SWITCH, then DROP


def test_a_guest_whose_output_piles_up_is_paused_until_some_has_left(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair(limits=Limits(batch_bytes=1 << 16, copy_rest_pages=4, outputs_held=40)).protected()
    pair.alive.remove(pair.b)

    pair.until(lambda: not pair.a.guest.is_running, 400)
    held = pair.a.active.held_count
    pair.alive.append(pair.b)
    pair.until(lambda: pair.a.guest.is_running)

    assert 20 <= held <= 24


def test_answers_to_a_standby_far_away_wait_for_no_place_on_the_link() -> None:
    """As many as there are batches on their way were, and the next one waited for an acknowledgement."""
    guest = partial(SimGuest, page_count=24, pages_per_step=2, output_every=1)
    with closing(Pair(engine=Hybrid(1.0), guest=lambda boots: guest(boots=boots)).protected()) as pair:
        pair.cut_off("b")
        logged = pair.b.standby.log_index

        pair.run(20)

        assert pair.b.standby.log_index >= logged + 20


def test_status_tells_where_things_stand_on_both_sides(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    here, there = (machine.driver.status(pair.clock.now()) for machine in (pair.a, pair.b))

    assert (here.role, here.link, here.generation, here.standby) == ("active", "protected", 2, "b1")
    assert (there.role, there.link, there.replica_id) == ("standby", "", "b1")
    assert here.digests_compared > 0
    assert 0 <= here.epoch - there.epoch <= 2
    assert here.as_dict()["pause_us"].keys() == {"p50", "p99"}


def test_the_status_tells_how_long_outputs_were_held(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    pair.run(400)

    delay = pair.a.driver.status(pair.clock.now()).output_delay_us
    assert 0 < delay.p50 <= delay.p99 <= 25_000  # the test's clock: an interval of 20 ms, and a commit


def test_an_output_waits_from_when_the_guest_made_it_not_from_when_the_loop_took_it(
    make_pair: Callable[..., Pair],
) -> None:
    pair = make_pair()
    pair.alive.remove(pair.b)
    pair.run(10)  # alone: what is taken leaves at once
    before = pair.a.driver.status(pair.clock.now()).output_delays

    pair.a.driver._sink.emit("net0", b"x")
    pair.clock.elapse(7)
    pair.a.step()
    after = pair.a.driver.status(pair.clock.now()).output_delays

    assert after.sum_us - before.sum_us >= 7_000


@pytest.mark.parametrize("limits", [Limits(log_records=64), Limits(log_bytes=512)], ids=["records", "bytes"])
def test_a_guest_whose_log_grows_long_is_paused_until_a_checkpoint_covers_it(limits: Limits) -> None:
    """The backup keeps the log since the last checkpoint: more than it can keep would end the session."""
    pair = Pair(engine=Hybrid(interval=0.1), limits=replace(limits, batch_bytes=1 << 16, copy_rest_pages=4)).protected()

    pair.alive.remove(pair.b)  # it is slow
    for _ in range(100):
        pair.a.world.put("net0", b"0123456789")
        pair.run(1)
    still = not pair.a.guest.is_running
    pair.alive.append(pair.b)
    pair.run(100)

    assert still
    assert not pair.b.told(PeerMisbehaved)
    assert not pair.a.told(SessionEnded)
    assert pair.a.guest.is_running
    pair.close()


def test_what_a_guest_warns_of_is_an_event_and_told_once(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()

    pair.a.driver._sink.warn("this is slow")
    pair.run(3)

    assert [event.reason for event in pair.a.told(GuestWarned)] == ["this is slow"]


def test_a_status_tells_what_memory_is_in_use_for_a_guest_and_its_standby(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair()
    alone = pair.a.driver.status(pair.clock.now())
    pair.protected()
    pair.run(50)

    active, standby = (machine.driver.status(pair.clock.now()) for machine in (pair.a, pair.b))
    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    took_over = pair.b.driver.status(pair.clock.now())

    size = 24 * PAGE_BYTES
    assert (alone.guest_bytes, alone.shadow_bytes, alone.staging_bytes) == (size, 0, 0)
    assert (active.guest_bytes, active.shadow_bytes) == (size, size)
    assert active.staging_bytes >= 1 << 16, "a batch at least"
    assert (standby.guest_bytes, standby.shadow_bytes) == (size, 0)
    assert took_over.guest_bytes == size


def test_a_host_that_switched_away_has_given_its_shadow_back(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    switchover = pair.a.driver.begin_switchover(Nanos(10_000_000_000))
    pair.until(lambda: pair.b.role is Role.ACTIVE and pair.a.role is Role.STANDBY)

    left = pair.a.driver.status(pair.clock.now())

    assert switchover is not None
    assert left.shadow_bytes == 0


def test_the_driver_has_an_act_for_each_effect(make_pair: Callable[..., Pair]) -> None:
    driver = make_pair().a.driver

    assert driver._acts.keys() == set(get_args(Effect))


def test_a_small_batch_is_sent_as_it_is_and_teaches_nothing(make_pair: Callable[..., Pair]) -> None:
    pair = make_pair().protected()
    before, committed = pair.a.driver._packer.policy, len(pair.b.told(Committed))

    pair.until(lambda: len(pair.b.told(Committed)) > committed + 2)

    assert pair.a.driver._packer.policy == before


class AnsweringGuest(SimGuest):
    """Answers inputs that come together in the thread that gives them, and hands the answers on as one turn."""

    def __init__(self, boots: bool) -> None:
        super().__init__(page_count=24, pages_per_step=2, output_every=1, boots=boots)
        self.answers = False

    @property
    def can(self) -> frozenset[Capability]:
        return super().can | {Capability.TAKES_GROUPS}

    def deliver_all(self, inputs: Sequence[tuple[str, bytes]]) -> None:
        if self.answers:
            OneTurn(self, len(inputs)).hand_on()


def test_what_a_guest_answers_at_once_is_shipped_in_the_same_step_and_wakes_nobody() -> None:
    """Mutants: the inputs are given behind the look for outputs, which nobody would be woken for; the sink is not
    heard."""
    with closing(Pair(engine=Hybrid(), guest=AnsweringGuest)) as pair:
        pair.protected()
        guest, sink = pair.a.guest, pair.a.driver._sink
        assert isinstance(guest, AnsweringGuest)
        guest.answers, woken = True, list[None]()
        sink._wake = lambda: woken.append(None)
        before = sink.output_next
        pair.a.world.put("net0", b"one")
        pair.a.world.put("net0", b"two")

        pair.a.step()

        assert sink.output_next == before + 2
        assert not sink.items
        assert not woken
        pair.until(lambda: pair.a.released and pair.a.released[-1].number >= before + 1, 10)
