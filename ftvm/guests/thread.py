"""The thread of a guest that runs in this process: how it starts and ends, whom it speaks to, and why it failed.

A guest has one (composition) and gives it what to do: `attend` takes what the machine did, and hands it on, until the
machine says that it is closed. It promises that no thread runs before the guest does, that whoever closes the guest
waits for its end, and that a thread which dies is a failure of the guest, never one that is taken for sound.
"""

import threading
from collections.abc import Callable

from ftvm.errors import ClosedError, LocalProtocolError
from ftvm.guests.disk.kept import KeptDisk
from ftvm.interfaces import OutputSink

__all__ = ["GuestThread"]


class GuestThread:
    """One guest's thread. `failure` is why the guest can never run again; its adapter may say so, too."""

    def __init__(
        self,
        name: str,
        attend: Callable[[], None],
        leave: Callable[[], None] = lambda: None,
        *,
        kept: KeptDisk | None = None,
        warning: str = "",
    ) -> None:
        """Make it; `start` starts it.

        leave    called in the thread when `attend` is over, for whatever reason: nobody is to wait for it any more
        kept     the guest's disk, if it has an image: what becomes of that is warned of
        warning  told to whoever hears the guest, if not empty
        """
        self.failure: str | None = None
        self.is_closed = False
        self._attend, self._leave, self._kept, self._warning = attend, leave, kept, warning
        self._sink: OutputSink | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def attach(self, sink: OutputSink) -> None:
        """Take the sink for the guest's outputs; before the first run."""
        self._sink = sink
        if self._warning:
            sink.warn(self._warning)

    @property
    def sink(self) -> OutputSink:
        """Where the guest's outputs go. Raises LocalProtocolError before `attach`."""
        if self._sink is None:
            raise LocalProtocolError("attach a sink for the guest's outputs before it runs")
        return self._sink

    @property
    def is_current(self) -> bool:
        """Whether the caller is this thread."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        """Have the thread run, before the guest does. Idempotent. Raises ClosedError, and LocalProtocolError without a
        sink."""
        if self.is_closed:
            raise ClosedError("the guest is closed")
        if self.sink and self._thread.ident is None:
            self._thread.start()

    def look(self) -> str | None:
        """Return why the guest can never run again, None while it can; warn of what becomes of its disk's image."""
        if self._kept is not None and self._sink is not None and (news := self._kept.news()) is not None:
            self._sink.warn(news)
        return self.failure

    def has_lost_its_disk(self) -> bool:
        """Tell whether pages of the image could not be read: the guest has failed, and what it did since is not what it
        should have done, so nothing of it is to be told."""
        lost = None if self._kept is None else self._kept.why_unreadable()
        if lost is not None:
            self.failure = lost
        return lost is not None

    def revive(self) -> None:
        """Note that a state was loaded: the guest can run again, unless its thread has died."""
        if self._thread.ident is None or self._thread.is_alive():
            self.failure = None

    def close(self, dismiss: Callable[[], None]) -> bool:
        """End it by `dismiss`, after which `attend` returns, and wait for it; return whether that was still to do."""
        if self.is_closed:
            return False
        self.is_closed = True
        dismiss()
        if self._thread.ident is not None and not self.is_current:
            self._thread.join()
        return True

    def _run(self) -> None:
        try:
            self._attend()
        except BaseException as wrong:
            self.failure = self.failure or f"its thread ended by {type(wrong).__name__}: {wrong}"
            raise  # to whoever looks at threads that end by an error: Python prints it
        finally:
            self._leave()
