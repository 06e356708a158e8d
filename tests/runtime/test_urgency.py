"""A host's loop is not kept waiting by what else a machine has to do; nothing else becomes urgent."""

import os
import subprocess
import sys
import threading

import pytest

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.runtime.protection import protect
from ftvm.runtime.urgency import why_not_urgent
from ftvm.sim.guest import SimGuest

from ..leftovers import policies_of

HOST_THREADS, WIRE_THREADS = 2, 2
REAL_TIME = os.SCHED_RR | os.SCHED_RESET_ON_FORK


def require_real_time() -> None:
    reason = why_not_urgent()
    if reason is not None:
        pytest.skip(f"needs real-time priority: {reason}")


CODE = """
import os, threading
from ftvm.runtime.urgency import make_urgent
said = []
def be_urgent():
    make_urgent()
    said.append(os.sched_getscheduler(0))
    other = threading.Thread(target=lambda: said.append(os.sched_getscheduler(0)))
    other.start()
    other.join()
thread = threading.Thread(target=be_urgent)
thread.start()
thread.join()
said.append(os.sched_getscheduler(0))
print(*said)
"""


def test_an_urgent_thread_goes_first_and_what_it_starts_does_not() -> None:
    require_real_time()

    said = subprocess.run([sys.executable, "-P", "-c", CODE], capture_output=True, text=True, timeout=60, check=True)

    assert [int(policy) for policy in said.stdout.split()] == [REAL_TIME, os.SCHED_OTHER, os.SCHED_OTHER]


def test_a_thread_that_may_not_be_urgent_is_told_why_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert why_not_urgent() == "there is one processor only"

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    assert why_not_urgent() == "Operation not permitted"


@pytest.mark.parametrize("is_urgent", [False, True])
def test_loop_heart_and_wire_of_a_host_are_urgent_if_that_is_asked_for_and_no_other_thread_is(
    is_urgent: bool,
) -> None:
    require_real_time()
    guest = SimGuest(page_count=4, pages_per_step=2, output_every=4, boots=True)
    before = set(os.listdir("/proc/self/task"))
    wanted = (HOST_THREADS, WIRE_THREADS) if is_urgent else (0, 0)

    with protect(guest, listen="tcp://127.0.0.1:0", arbiter=MemoryRecordStore(), create=True, is_urgent=is_urgent):
        for _ in range(1_000):  # those of the wire become so a moment after they have started
            policies = policies_of(map(int, set(os.listdir("/proc/self/task")) - before))
            if (policies.count(REAL_TIME), policies.count(os.SCHED_RR)) == wanted:
                break
            threading.Event().wait(0.01)

    assert (policies.count(REAL_TIME), policies.count(os.SCHED_RR)) == wanted
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
