"""What a test leaves behind in its process: threads, children and descriptors, each known by itself.

To count them proves nothing: what an earlier test left is collected meanwhile, and the system lists a thread for a
moment behind its end, also once it was joined. So what was not there before must be gone, within a bounded time.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

LOOKS_MAX: Final = 1_000
LOOK_S: Final = 0.01


def threads() -> set[str]:
    """Return the threads of this process by the system's ids, those of C among them."""
    return {f"thread {number}" for number in os.listdir("/proc/self/task")}


def children_of(process: int) -> list[int]:
    """Return the processes that this one has started, and that still are."""
    found: list[int] = []
    for thread in os.listdir(f"/proc/{process}/task"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, Path(f"/proc/{process}/task/{thread}/children").read_text().split())
    return found


def policies_of(threads: Iterable[int]) -> list[int]:
    """Return how threads are scheduled, without those that have ended."""
    found = []
    for thread in threads:
        with suppress(ProcessLookupError):
            found.append(os.sched_getscheduler(thread))
    return found


def descriptors() -> set[str]:
    """Return the open descriptors of this process by number and inode: a number alone is soon given to another file."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one by which the list was read, and what another thread closes meanwhile
            leads_to = os.fstat(int(number))
            found.add(f"descriptor {number} of inode {leads_to.st_ino} of device {leads_to.st_dev}")
    return found


def require_gone(find: Callable[[], set[str]]) -> None:
    """Wait until nothing is found any more."""
    for _ in range(LOOKS_MAX):
        left = find()
        if not left:
            return
        threading.Event().wait(LOOK_S)
    named = [f"thread {each.native_id} is {each.name}" for each in threading.enumerate()]
    raise AssertionError(f"left behind: {', '.join(sorted(left))} ({', '.join(named)})")


def processes() -> set[str]:
    """Return the processes that this one has started."""
    return {f"process {number}" for number in children_of(os.getpid())}


def all_there() -> set[str]:
    return threads() | descriptors() | processes()


@contextmanager
def nothing_left_behind(find: Callable[[], set[str]] = all_there) -> Iterator[None]:
    """Require that what begins in the block, and what is opened in it, has ended and is closed soon behind it."""
    before = find()
    yield
    require_gone(lambda: find() - before)
