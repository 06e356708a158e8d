"""Why a record could not be changed, found without changing it: reads succeed on a full disk, and a takeover does not.

A store may tell it (`TellsObstacle`); most need not, where what is read can also be written. What a look cannot see,
such as a quota, shows when a write fails.

Does not know: what becomes of the answer. It changes no decision. Source: statvfs(3), access(2).
"""

import errno
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from ftvm.interfaces import RecordStore

__all__ = ["TellsObstacle", "check_writable", "obstacle_of"]


@runtime_checkable
class TellsObstacle(Protocol):
    """A RecordStore that can tell why it would refuse a change. Calls may block, as those of the store."""

    def obstacle(self) -> str | None:
        """Return why no record can be written now, with the remedy; None if nothing is known to stand in the way."""
        ...


def obstacle_of(store: RecordStore) -> str | None:
    """Return what a store tells of itself; None if it cannot tell. Raises what the store raises."""
    return store.obstacle() if isinstance(store, TellsObstacle) else None


def check_writable(folder: Path) -> None:
    """Raise the OSError that making a small file in `folder` would meet, as far as a look can tell."""
    found = os.statvfs(folder)
    if found.f_flag & os.ST_RDONLY:
        raise _error(errno.EROFS)
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        raise _error(errno.EACCES)
    is_root = os.geteuid() == 0  # who may use what a file system reserves
    blocks, files = (found.f_bfree, found.f_ffree) if is_root else (found.f_bavail, found.f_favail)
    # A total of 0 says that the file system does not count.
    if (found.f_blocks and not blocks) or (found.f_files and not files):
        raise _error(errno.ENOSPC)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
