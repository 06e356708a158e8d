"""A host whose loop is busy for longer than the limit is not taken for dead: its heart beats, over ZeroMQ."""

import time
from pathlib import Path

import pytest

from ftvm.config import Timing
from ftvm.events import SessionEnded, Suspected, TookOver
from ftvm.runtime.protection import Protection, Standby, protect
from ftvm.sim.guest import SimGuest
from ftvm.transport.keys import generate_keys
from ftvm.units import Nanos

MS = 1_000_000
WAIT_SECONDS = 60.0
TIMING = Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(1_000 * MS), primary_limit_ns=Nanos(1_200 * MS))
BUSY_SECONDS = 2.0
"""Two limits; four are borne."""


def be_busy() -> None:
    """Do what a long call into the C core or to QEMU does: give the interpreter's lock up, and not come back."""
    time.sleep(BUSY_SECONDS)


def wait_for_pulse(host: Protection | Standby) -> None:
    """Wait until the heart beats apart from the loop. No event tells that."""
    ends_at = time.monotonic() + WAIT_SECONDS
    while host._node.driver.pulse is None:
        assert time.monotonic() < ends_at, "no heart beats apart from the loop"
        time.sleep(0.01)


@pytest.mark.parametrize("who", ["primary", "standby"])
def test_a_busy_loop_is_not_taken_for_a_dead_host(who: str, tmp_path: Path) -> None:
    guests = [SimGuest(page_count=24, pages_per_step=2, output_every=4, boots=boots) for boots in (True, False)]
    ours, theirs = generate_keys(2)
    listen = f"ipc://{tmp_path}/primary"
    arbiter = f"file://{tmp_path}/arbiter"
    (tmp_path / "arbiter").mkdir()
    with (
        protect(guests[0], listen=listen, arbiter=arbiter, create=True, keys=ours, timing=TIMING) as primary,
        Standby(
            guests[1], listen=f"ipc://{tmp_path}/standby", peers=[listen], arbiter=arbiter, keys=theirs, timing=TIMING
        ) as standby,
    ):
        assert primary.wait_protected(WAIT_SECONDS)
        busy = primary if who == "primary" else standby

        wait_for_pulse(busy)

        busy._node.host.call(be_busy, timeout=WAIT_SECONDS)
        late_ms = busy.status().loop_late_ms
        told = [*primary.events(0.5), *standby.events(0.5)]

    assert late_ms > BUSY_SECONDS * 500
    assert not [event for event in told if isinstance(event, Suspected | TookOver | SessionEnded)]
