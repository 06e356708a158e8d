"""A separate guest, started from an epoch: no arbiter, no peer, and nothing that it sends goes anywhere.

Its outputs are compared with those that were recorded behind that epoch. A guest that got inputs then says something
else sooner or later: a clone gets none.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, Self, runtime_checkable

from ftvm.checkpoint import GuestPosition, Output
from ftvm.errors import ConfigError
from ftvm.interfaces import Guest
from ftvm.store.entry import Entry

__all__ = ["Clone", "Comparison", "recorded_outputs"]

_OUTPUTS_MAX: Final = 100_000
"""So many recorded outputs are kept to compare with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a clone has said so far, beside what was recorded.

    same       outputs equal to the recorded ones, from the first on
    different  the number of the first that was not, None if all were
    beyond     outputs behind the last recorded one, or behind the first difference
    """

    same: int
    different: int | None
    beyond: int


class _ComparingSink:
    """Takes a clone's outputs (interfaces.OutputSink)."""

    def __init__(self, first: int, recorded: dict[int, Output], on_output: Callable[[Output], None]) -> None:
        self._next = first
        self._recorded = recorded
        self._on_output = on_output
        self.same = self.beyond = 0
        self.different: int | None = None

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        """See interfaces.OutputSink."""
        del position
        output = Output(number=self._next, channel=channel, payload=bytes(payload))
        self._next += 1
        known = self._recorded.get(output.number)
        if known is None or self.different is not None:
            self.beyond += 1
        elif (known.channel, bytes(known.payload)) == (output.channel, output.payload):
            self.same += 1
        else:
            self.different = output.number
        self._on_output(output)

    def took_input(self, position: GuestPosition, channel: str, payload: bytes) -> None:
        """It gets none but what its own devices make."""

    def moved_clock(self, position: GuestPosition, amount: int) -> None:
        """Its time is its own."""

    def want_cut(self) -> None:
        """Nobody cuts it."""

    def warn(self, reason: str) -> None:
        """Nobody operates it."""

    def may_wait(self, reason: str) -> bool:
        """Nobody is in a hurry."""
        return bool(reason)


@runtime_checkable
class GdbServingGuest(Protocol):
    """A guest whose machine can be served to gdb."""

    def serve_gdb(self, listener: int) -> None:
        """Serve it at a listening socket, paused. Raises GuestError."""
        ...


class Clone:
    """A guest that was restored, paused. Leaving the `with` block closes it."""

    def __init__(self, guest: Guest) -> None:
        """Take a guest that nothing is attached to. See History.clone."""
        self.guest = guest
        self._sink: _ComparingSink | None = None

    def attach(self, entry: Entry, recorded: Iterable[Output], on_output: Callable[[Output], None]) -> None:
        """Compare what it says from `entry` on; `on_output` is told each output, in the guest's thread."""
        known = {output.number: output for output in recorded}
        self._sink = _ComparingSink(entry.output_next, known, on_output)
        self.guest.attach(self._sink)

    def resume(self) -> None:
        """Let it run."""
        self.guest.resume()

    def serve_gdb(self, listener: int) -> None:
        """Have it served to gdb at a listening socket; it stands until gdb lets it go on. Instead of `resume`.

        Raises ConfigError if it is no QEMU guest, GuestError if QEMU cannot.
        """
        if not isinstance(self.guest, GdbServingGuest):
            raise ConfigError(
                "only a clone of a QEMU guest can be run by gdb; to go through what the built-in machine did, forwards "
                "and backwards, use `ftvm history debug`"
            )
        self.guest.serve_gdb(listener)

    def pause(self) -> None:
        """Have it stand still."""
        self.guest.pause()

    def failure(self) -> str | None:
        """Return why it can never run again, None while it can."""
        return self.guest.failure()

    @property
    def compared(self) -> Comparison:
        """What it has said so far, beside what was recorded."""
        sink = self._sink
        if sink is None:
            return Comparison(same=0, different=None, beyond=0)
        return Comparison(same=sink.same, different=sink.different, beyond=sink.beyond)

    def close(self) -> None:
        """End it. Idempotent."""
        self.guest.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def recorded_outputs(entries: Iterator[Entry]) -> Iterator[Output]:
    """Yield the outputs of entries, at most so many as are compared."""
    count = 0
    for entry in entries:
        for output in entry.outputs:
            yield output
            count += 1
            if count >= _OUTPUTS_MAX:
                return
