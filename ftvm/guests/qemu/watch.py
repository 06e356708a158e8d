"""Asks a QEMU whose machine stands still each second whether it still answers, in a thread that waits for no answer."""

import threading
from collections.abc import Callable
from typing import Final

from ftvm.guests.qemu.qmp import ANSWER_SECONDS
from ftvm.guests.silence import ASK_SECONDS, Silence

__all__ = ["QemuWatch"]

_NAMED: Final = "QEMU has not answered query-status"
_SILENT: Final = "a takeover has to start another one first"


class QemuWatch:
    """Runs from when it is made until `close`."""

    def __init__(self, look: Callable[[], bool], warn: Callable[[str], None]) -> None:
        """`look` asks, and tells whether the answer to the last time is owed still (Qmp.look)."""
        self.silence = Silence(_NAMED, _SILENT, warn)
        self._look = look
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._main, name="qemu-watch", daemon=True)
        self._thread.start()

    def failure(self) -> str | None:
        """Return why its QEMU is given up: it has owed an answer for longer than any may take; else None."""
        return f"{self.silence.reason}: it hangs or is stopped" if self.silence.seconds >= ANSWER_SECONDS else None

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._is_over.set()
        self._thread.join()

    def _main(self) -> None:
        while not self._is_over.wait(ASK_SECONDS):
            self.silence.note(is_owed=self._look())
