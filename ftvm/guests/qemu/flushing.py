"""A disk's flushes: the guest waits for them, its host does not.

QEMU stops a machine only once the disk has answered all that was asked of it, a last flush included. If the answer
waited for the device, the host's loop would wait too, heartbeats and all, and a slow device would look like a dead
host. So while the guest is being stopped a flush is answered at once, and owed: the guest goes on when the device has
it, which nobody waits for. No guest runs, and nothing it says leaves, between a flush that it was told of and the
device.

A thread does the writing. Knows no NBD and no QEMU.
"""

import threading
from collections.abc import Callable
from typing import Final

from ftvm.errors import GuestError

__all__ = ["Flusher"]

_SETTLE_SECONDS: Final = 30.0

Settled = Callable[[OSError | None], None]
"""Called once nothing is owed: with what went wrong, if anything did."""


class Flusher:
    """Writes pages to the device, in the order of the flushes that name them.

    save  writes these pages and returns when the device has them; called in the thread. Raises OSError
    """

    def __init__(self, save: Callable[[set[int]], None], name: str) -> None:
        self.error: OSError | None = None
        self._save = save
        self._changed = threading.Condition()
        self._pages: set[int] = set()
        self._asked = self._done = 0
        self._has_patience = True
        self._then: Settled | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def flush(self, pages: set[int]) -> None:
        """Return when the device has these pages; or at once, while the guest is being stopped. Raises OSError."""
        with self._changed:
            self._pages |= pages
            self._asked += 1
            mine = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= mine or not self._has_patience or self.error is not None)
            if self.error is not None:
                raise self.error

    def hurry(self) -> None:
        """The guest is about to stop: answer flushes at once, and owe them. A waiting `when_settled` is dropped."""
        with self._changed:
            self._has_patience, self._then = False, None
            self._changed.notify_all()

    def when_settled(self, then: Settled) -> None:
        """Call `then` once nothing is owed: here and now, or in the thread. Flushes wait for the device again."""
        with self._changed:
            self._has_patience = True
            is_settled = self._is_settled()
            self._then = None if is_settled else then
        if is_settled:
            then(self.error)

    def settle(self) -> None:
        """Wait until nothing is owed, or nothing can be written any more. Raises GuestError if neither comes."""
        with self._changed:
            if not self._changed.wait_for(self._is_settled, _SETTLE_SECONDS):
                raise GuestError(f"nothing was written to the disk's image for {_SETTLE_SECONDS:.0f} s")

    def close(self) -> None:
        """Write what is owed, and end. Idempotent."""
        with self._changed:
            self._is_closed, self._then = True, None
            self._changed.notify_all()
        self._thread.join(_SETTLE_SECONDS)

    # --- the thread ------------------------------------------------------------------------------------------------

    def _is_settled(self) -> bool:
        return self._done == self._asked or self.error is not None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done < self._asked or self._is_closed)
                if self._done == self._asked:
                    return
                pages, self._pages = self._pages, set()
                asked = self._asked
            error: OSError | None = None
            try:
                self._save(pages)
            except OSError as wrong:
                error = wrong
            with self._changed:
                self._done, self.error = asked, error
                self._changed.notify_all()
                then: Settled | None = None
                if self._is_settled():
                    then, self._then = self._then, None
            if then is not None:
                then(error)
            if error is not None:
                return
