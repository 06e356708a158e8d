"""A standard stream that never makes its writer wait: a bounded buffer, and a thread that empties it.

The host's loop prints the guest's console. A terminal stopped by Ctrl-S, a pager or a log collector that hangs would
block the loop in a write, and with it heartbeats, takeovers and a clean stop. So output is buffered here. Beyond
BUFFER_BYTES whole lines are dropped and counted, and a line in their place says how many are missing. What cannot be
written at all is lost.

Refused: descriptors that do not block. That is a property of the open file, which a terminal shares with the shell and
other programs; and a regular file on a share that hangs blocks even so.
"""

import io
import os
import select
import threading
from collections.abc import Callable
from typing import Final

__all__ = ["BUFFER_BYTES", "Outlet", "say_lost"]

BUFFER_BYTES: Final = 1 << 20
_PORTION_BYTES: Final = 1 << 16


def say_lost(lines: int) -> str:
    """Say to a person that lines are missing."""
    return f"ftvm: {lines} line{'s' if lines > 1 else ''} lost here: nobody read this output"


class Outlet(io.RawIOBase):
    """A raw stream onto a descriptor, which is not closed with it. Writing never waits and never fails."""

    def __init__(self, fd: int, say_lost: Callable[[int], str] = say_lost) -> None:
        """Write to `fd`. `say_lost` is given a count of lines, and returns the line that stands where they were."""
        super().__init__()
        self._fd = fd
        self._say_lost = say_lost
        self._changed = threading.Condition()
        self._buffer = bytearray()
        self._is_writing = False
        self._is_dropping = False
        self._is_inside_dropped_line = False
        self._lines_lost = 0
        self._last = b"\n"
        threading.Thread(target=self._work, name=f"ftvm-output-{fd}", daemon=True).start()

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return os.isatty(self._fd)

    def write(self, content: object) -> int:
        """Take all of `content`, or drop it if there is no room: then also all that follows until the rest is read."""
        data = bytes(content)  # type: ignore[call-overload]
        with self._changed:
            if self._is_inside_dropped_line:
                data = self._drop_to_line_end(data)
            if self._is_dropping or len(self._buffer) + len(data) > BUFFER_BYTES:
                self._drop(data)
            else:
                self._buffer += data
            self._changed.notify_all()
        return memoryview(content).nbytes  # type: ignore[arg-type]

    def drain(self, seconds: float) -> bool:
        """Wait until all is written, at most so long; tell whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_work and not self._is_writing, seconds)

    def close(self) -> None:
        """End the thread, once all is written. Idempotent."""
        with self._changed:
            super().close()
            self._changed.notify_all()

    @property
    def _has_work(self) -> bool:
        return bool(self._buffer) or self._is_dropping

    def _drop(self, data: bytes) -> None:
        if data:
            self._is_dropping = True
            self._lines_lost += data.count(b"\n")
            self._is_inside_dropped_line = not data.endswith(b"\n")

    def _drop_to_line_end(self, data: bytes) -> bytes:
        """Drop the rest of a line whose beginning was dropped; return what comes after it."""
        dropped, newline, rest = data.partition(b"\n")
        self._drop(dropped + newline)
        return rest

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._has_work or self.closed)
                if not self._has_work:
                    return
                portion = self._next_portion()
                self._is_writing = True
            self._put(portion)

    def _next_portion(self) -> bytes:
        """Take out what to write next: first what came before the gap, then the line about the gap."""
        if self._buffer:
            portion = bytes(self._buffer[:_PORTION_BYTES])
            del self._buffer[:_PORTION_BYTES]
        else:
            cut = "" if self._last == b"\n" else "\n"
            portion = f"{cut}{self._say_lost(max(self._lines_lost, 1))}\n".encode(errors="replace")
            self._lines_lost, self._is_dropping = 0, False
        self._last = portion[-1:]
        return portion

    def _put(self, portion: bytes) -> None:
        while portion:
            try:
                portion = portion[os.write(self._fd, portion) :]
            except BlockingIOError:  # another program that shares the file has set it so
                waiting = select.poll()
                waiting.register(self._fd, select.POLLOUT)
                waiting.poll()
            except OSError:
                return
