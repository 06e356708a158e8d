import os
import resource
import threading

import pytest

from ftvm.transport.waker import Waker, wait_readable


def test_wakes_are_remembered_until_drained() -> None:
    waker = Waker()

    waker.wake()
    waker.wake()
    before = wait_readable([waker.fileno()], 0)
    waker.drain()
    after = wait_readable([waker.fileno()], 0)
    waker.drain()
    waker.close()

    assert (before, after) == ([waker_fd(before)], [])


def waker_fd(ready: list[int]) -> int:
    assert len(ready) == 1
    return ready[0]


def test_late_wake_and_second_close_do_nothing() -> None:
    waker = Waker()
    waker.close()

    waker.wake()
    waker.close()

    assert waker.fileno() == -1


def test_nobody_closes_it_under_a_thread_that_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    waker = Waker()
    fd = waker.fileno()
    closer = threading.Thread(target=waker.close)
    woken: list[int] = []

    def write(fd: int, _value: int) -> None:
        closer.start()
        closer.join(0.2)
        woken.append(os.fstat(fd).st_mode)  # raises once it is closed

    monkeypatch.setattr(os, "eventfd_write", write)
    waker.wake()
    closer.join()

    assert len(woken) == 1
    assert waker.fileno() == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_negative_time_is_no_time() -> None:
    waker = Waker()

    ready = wait_readable([waker.fileno()], -5)
    waker.close()

    assert ready == []


def test_descriptor_beyond_the_reach_of_select_is_waited_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1100:
        pytest.skip(f"only {soft} descriptors are allowed here")
    waker = Waker()
    os.dup2(waker.fileno(), 1050)

    waker.wake()
    ready = wait_readable([1050], 10**12)
    waker.drain()
    silent = wait_readable([1050], 500_000)
    os.close(1050)
    waker.close()

    assert (ready, silent) == ([1050], [])
    assert hard >= soft
