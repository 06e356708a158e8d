"""QEMU's threads go first exactly as long as somebody of real-time priority waits for them."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ftvm.guests.qemu.haste import Haste

REAL_TIME = os.SCHED_RR | os.SCHED_RESET_ON_FORK
CODE = """
import sys, threading
done = threading.Event()
other = threading.Thread(target=done.wait, daemon=True)
other.start()
print(other.native_id, flush=True)
sys.stdin.read()
"""


def urgently(function: Callable[[], object]) -> None:
    """Call it in a thread of real-time priority."""
    refused: list[OSError] = []

    def run() -> None:
        try:
            os.sched_setscheduler(0, REAL_TIME, os.sched_param(1))
        except OSError as wrong:
            refused.append(wrong)
            return
        function()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if refused:
        pytest.skip(f"needs real-time priority: {refused[0].strerror}")


def policy_of(thread: int) -> int:
    return os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK


@contextmanager
def process() -> Iterator[tuple[int, int]]:
    """Another process: its main thread, and another of its threads."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        yield child.pid, int(child.stdout.readline())
        child.kill()


def test_processors_go_first_until_they_stand_and_those_that_answer_until_the_guest_runs() -> None:
    with process() as (main, other):
        haste, seen = Haste([main], [other]), []

        def wait_for_it() -> None:
            for step in (haste.begin, haste.stopped, haste.end):
                step()
                seen.append((policy_of(main), policy_of(other)))

        urgently(wait_for_it)

    assert seen == [
        (os.SCHED_RR, os.SCHED_RR),
        (os.SCHED_RR, os.SCHED_OTHER),
        (os.SCHED_OTHER, os.SCHED_OTHER),
    ]


def test_who_waits_at_usual_priority_changes_nothing() -> None:
    with process() as (main, other):
        haste = Haste([main], [other])

        haste.begin()

        assert (policy_of(main), policy_of(other)) == (os.SCHED_OTHER, os.SCHED_OTHER)
        haste.end()


def test_a_thread_that_has_ended_is_passed_over() -> None:
    with process() as (main, other):
        pass

    urgently(Haste([main], [other]).begin)
