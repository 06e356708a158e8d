"""Where the guest's outputs enter ftvm: numbered as they come, taken out by the driver.

The guest's thread emits and the driver's thread drains; a deque's append and popleft are atomic, and only the guest's
thread counts. `open` and `close` are called only while the guest is paused.
"""

from collections import deque
from collections.abc import Callable

from ftvm.checkpoint import Output

__all__ = ["NumberingSink"]


class NumberingSink:
    """Counts outputs over all channels. What comes while it is closed is thrown away: the guest is not active here."""

    __slots__ = ("_is_open", "_next", "_outputs", "_wake")

    def __init__(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever the first output of a batch has come."""
        self._outputs: deque[Output] = deque()
        self._wake = wake
        self._next = 1
        self._is_open = False

    @property
    def output_next(self) -> int:
        """The number of the next output; exact only while the guest is paused."""
        return self._next

    def open(self, output_next: int) -> None:
        """Let outputs in; the next one gets the number `output_next`."""
        self._outputs.clear()
        self._next = output_next
        self._is_open = True

    def close(self) -> None:
        """Throw away what is here and all that comes."""
        self._is_open = False
        self._outputs.clear()

    def emit(self, channel: str, payload: bytes) -> None:
        """Take one output from the guest."""
        if not self._is_open:
            return
        is_first = not self._outputs
        self._outputs.append(Output(number=self._next, channel=channel, payload=payload))
        self._next += 1
        if is_first:
            self._wake()

    def drain(self) -> list[Output]:
        """Take out all outputs that have come, in order."""
        outputs: list[Output] = []
        while self._outputs:
            outputs.append(self._outputs.popleft())
        return outputs
