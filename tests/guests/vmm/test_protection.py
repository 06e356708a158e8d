"""A monitor's guest lives on when its host or its monitor dies, hangs or lies: nothing twice, lost or changed."""

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import FtvmError, GuestError
from ftvm.runtime.world import CallbackWorld
from ftvm.units import Nanos

from ...runtime.live import PATIENCE_S, Ear, kill, start_pair
from .conftest import MakeFake, MakeTiny
from .monitors import reply, request, tick_lines, ticks_in, wait_until

MS = 1_000_000
TIMING = Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(1_000 * MS), primary_limit_ns=Nanos(3_000 * MS))
Processes = Sequence["subprocess.Popen[bytes]"]


class TickEar(Ear):
    def count(self) -> int:
        return len(ticks_in(self.text()))

    def wait_more(self, ticks: int) -> None:
        before = self.count()
        self.wait_until(lambda _: self.count() >= before + ticks)

    def answers(self) -> list[tuple[bytes, int, int, int]]:
        return [told for output in list(self.heard.values()) if (told := reply(output.payload)) is not None]

    def require_right(self) -> None:
        """Every line is there, once, and each sum is that of a memory of which no word was lost."""
        told = ticks_in(self.text())
        assert told == tick_lines(len(told))


@pytest.mark.parametrize(
    ("engine", "tracking", "victim"),
    [
        ("remus", "userfault", "host"),
        ("remus", "bitmap", "monitor"),
        ("kemari", "bitmap", "host"),
        ("kemari", "userfault", "monitor"),
        ("remus", "compare", "host"),
    ],
)
def test_the_guest_goes_on_where_its_host_or_its_monitor_died(
    engine: str, tracking: str, victim: str, make_tiny: MakeTiny, processes: Processes, tmp_path: Path
) -> None:
    ear = TickEar()
    booted, blank = make_tiny(tracking=tracking), make_tiny(boots=False, tracking=tracking)
    worlds = CallbackWorld(ear.hear)
    primary, standby = start_pair(
        booted, blank, tmp_path, engine=engine_named(engine, 0.05), timing=TIMING, ear=ear, world=worlds
    )
    with standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_more(10)
        put = request(b"P", 1, 4711, 0xC0FFEE)
        primary._node._world.put("net0", put)
        ear.wait_until(lambda _: (b"p", 1, 4711, 0xC0FFEE) in ear.answers())

        if victim == "host":
            kill(primary)
        else:
            processes[0].send_signal(signal.SIGKILL)
        assert standby.wait(PATIENCE_S) is not None
        ear.wait_more(30)
        worlds.put("net0", request(b"G", 2, 4711))
        ear.wait_until(lambda _: (b"g", 2, 4711, 0xC0FFEE) in ear.answers())
        if victim == "monitor":
            with pytest.raises(GuestError, match=rf"the monitor \(process {processes[0].pid}\)"):
                primary.wait(PATIENCE_S)
            primary.close()

    ear.require_right()
    assert processes[0].wait(30) == (0 if victim == "host" else -signal.SIGKILL)


def test_a_monitor_that_is_stopped_is_taken_over_and_its_host_gives_the_guest_up(
    make_tiny: MakeTiny, processes: Processes, tmp_path: Path
) -> None:
    ear = TickEar()
    primary, standby = start_pair(
        make_tiny(), make_tiny(boots=False), tmp_path, engine=engine_named("remus", 0.05), timing=TIMING, ear=ear
    )
    with standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_more(10)

        processes[0].send_signal(signal.SIGSTOP)
        assert standby.wait(PATIENCE_S) is not None
        ear.wait_more(30)
        processes[0].send_signal(signal.SIGCONT)
        wait_until(lambda: primary.status().role == "empty", "its host gives the guest up")
        ear.wait_more(10)
        primary.close()

    ear.require_right()


def test_a_standby_whose_monitor_dies_ends_and_says_why_and_the_guest_goes_on(
    make_tiny: MakeTiny, processes: Processes, tmp_path: Path
) -> None:
    ear = TickEar()
    primary, standby = start_pair(
        make_tiny(), make_tiny(boots=False), tmp_path, engine=engine_named("remus", 0.05), timing=TIMING, ear=ear
    )
    with primary:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_more(10)

        processes[1].send_signal(signal.SIGKILL)
        with pytest.raises(GuestError, match=rf"monitor \(process {processes[1].pid}\)"):
            standby.wait(PATIENCE_S)
        standby.close()
        ear.wait_more(30)

    ear.require_right()


def test_hosts_whose_monitors_differ_are_refused_with_both_shown(
    make_tiny: MakeTiny, make_fake: MakeFake, tmp_path: Path
) -> None:
    ear = TickEar()
    booted, (blank, _) = make_tiny(), make_fake(boots=False)
    primary, standby = start_pair(booted, blank, tmp_path, engine=engine_named("remus", 0.05), timing=TIMING, ear=ear)
    with primary:
        with pytest.raises(FtvmError, match="fake"):
            standby.wait(PATIENCE_S)
        standby.close()
        ear.wait_until(lambda _: ear.count() > 3)


def test_a_monitor_that_lies_harms_its_own_guest_only(make_fake: MakeFake, tmp_path: Path) -> None:
    """The host says which lie it was; its standby goes on with the last state that was committed."""
    (booted, liar), (blank, sound) = make_fake(), make_fake(boots=False)
    primary, standby = start_pair(booted, blank, tmp_path, engine=engine_named("remus", 0.05), timing=TIMING, ear=Ear())
    with standby:
        assert primary.wait_protected(PATIENCE_S)

        liar.say("output", 7, "net0", payload=b"out of turn")
        assert standby.wait(PATIENCE_S) is not None
        wait_until(lambda: "resume" in sound.names(), "the other monitor's guest runs")
        with pytest.raises(GuestError, match=r"output 7 came (where output 1 is due|from a guest that stands)"):
            primary.wait(PATIENCE_S)
        primary.close()
