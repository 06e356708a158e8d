"""`ftvm stop` beside a standby whose process is stopped: it ends, too, once it goes on."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

from .conftest import Run
from .hostpair import WAIT_SECONDS, Hosts, events_until, wait_for


def test_a_standby_that_was_stopped_as_its_guest_was_ended_ends_in_order_once_it_goes_on(
    ftvm: Run, tmp_path: Path
) -> None:
    """Regression: `has no state here`, for ever: it asked to join a guest that had ended."""
    with ExitStack() as stack:
        hosts = Hosts(stack, tmp_path, silence_ms=500)
        hosts.standby.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, hosts.standby.pid, os.WSTOPPED | os.WNOWAIT)
        wait_for(hosts.primary, "Solo")
        ended = ftvm("stop", "guest", "--yes", "--control", hosts.control(1))
        hosts.primary.communicate(timeout=WAIT_SECONDS)

        hosts.standby.send_signal(signal.SIGCONT)
        told = events_until(hosts.standby, "GuestFinished")[-1]
        hosts.standby.communicate(timeout=WAIT_SECONDS)

        assert (ended.status, hosts.primary.returncode, hosts.standby.returncode) == (0, 0, 0)
        assert str(told["reason"]).startswith("the guest has ended for good, by the record of generation ")
