"""A guest for the simulator: a few pages of memory and a program whose every output depends on all that it has done.

Each step mixes the machine's state with whatever input is taken, writes some pages, and now and then emits an output
that carries the mix. Two histories that differ anywhere therefore emit different payloads under the same number from
there on: the checkers need only compare payloads. All state lives in guest memory, but for one register that
`save_devices` saves.
"""

import hashlib
import mmap
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from xxhash import xxh3_128_digest

from ftvm.checkpoint import Bitmap, Geometry, GuestPosition, LogRecord, RegionShape
from ftvm.errors import GuestError, LocalProtocolError
from ftvm.interfaces import Capability, OutputSink, Region
from ftvm.sim.rng import Rng
from ftvm.units import PageCount, pages_to_bytes

__all__ = ["SimGuest"]

_STATE: Final = struct.Struct("<16sQ")
_REGISTER: Final = struct.Struct("<4sQ")
_MAGIC: Final = b"SIMG"
_INPUTS_MAX: Final = 1024
_FLUSH_EVERY: Final = 4
_KEPT: Final = 0.8
"""How much of its memory a host has still when it comes back, where it keeps any."""


def _ignore(_: object) -> None:
    """Tell nobody."""


def _never() -> bool:
    """Never fail."""
    return False


class SimGuest:
    """A Guest that runs only when `advance` is called: no thread, no clock."""

    def __init__(
        self, *, page_count: int, pages_per_step: int, output_every: int, boots: bool, stops_exactly: bool = False
    ) -> None:
        """`stops_exactly`: it can pause by itself right behind each output, which is what true Kemari needs."""
        self._page_count = page_count
        self._pages_per_step = pages_per_step
        self._output_every = output_every
        self._memory = mmap.mmap(-1, pages_to_bytes(page_count))
        self._view = memoryview(self._memory)
        self._dirty = bytearray((page_count + 63) // 64 * 8)
        self._steps = 0
        self._is_running = False
        self._can_stop, self._stops = stops_exactly, False
        self._sink: OutputSink | None = None
        self.on_saved: Callable[[bytes], None] = _ignore
        self.on_flushed: Callable[[int], None] = _ignore
        self.on_resumed: Callable[[], None] | None = None
        self.fails_to_load: Callable[[], bool] = _never
        self.death: str | None = None
        self._was_flushed = False
        self._flushed_at = 0
        self._rests_on: dict[bytes, int] = {}
        self._injected = b""
        self._inputs: deque[bytes] = deque(maxlen=_INPUTS_MAX)
        if boots:
            self._put_state(hashlib.md5(b"boot", usedforsecurity=False).digest(), 0)

    def keep(self, before: memoryview, rng: Rng) -> None:
        """Begin with most of the memory of one that is no more, as from a disk's image; the rest of it is lost."""
        for page in range(self._page_count):
            if rng.random() < _KEPT:
                place = slice(pages_to_bytes(page), pages_to_bytes(page + 1))
                self._view[place] = before[place]

    @property
    def geometry(self) -> Geometry:
        """One region."""
        return Geometry(machine="sim/1", regions=(RegionShape(name="ram", page_count=PageCount(self._page_count)),))

    @property
    def memory(self) -> tuple[Region, ...]:
        """One region."""
        return (Region(name="ram", buffer=self._view, page_count=PageCount(self._page_count)),)

    @property
    def can(self) -> frozenset[Capability]:
        """It can be replayed: its position is its step count."""
        return frozenset({Capability.REPLAY, *([Capability.EXACT_OUTPUT_STOP] if self._can_stop else [])})

    def stop_at_output(self, is_wanted: bool) -> None:
        """Pause behind each output, from now on, or no longer."""
        self._must_be_paused()
        self._stops = is_wanted

    @property
    def position(self) -> GuestPosition:
        """The steps done."""
        return GuestPosition(self._steps, 0)

    def run_until(self, position: GuestPosition, limit: int | None = None) -> bool:
        """Do steps up to `position`, or `limit` of them; inputs come from `inject` alone."""
        end = self._steps + limit if limit is not None else position.retired
        self._must_be_paused()
        while self._steps < min(end, position.retired):
            self._step(self._injected, is_live=False)
            self._injected = b""
        if self._steps > position.retired:
            raise GuestError(f"the guest is at {self.position} and cannot come to {position}")
        return self._steps == position.retired

    def inject(self, record: LogRecord) -> None:
        """Give the next step the input."""
        if record.position != self.position:
            raise GuestError(f"an input of {record.position} was to be given at {self.position}")
        self._injected = record.payload

    @property
    def is_running(self) -> bool:
        """Whether `advance` does anything."""
        return self._is_running

    def attach(self, sink: OutputSink) -> None:
        """Give it the sink."""
        self._sink = sink

    def pause(self) -> None:
        """Stand still."""
        self._is_running = False

    def resume(self) -> None:
        """Let `advance` work."""
        was_running, self._is_running = self._is_running, self.death is None
        if self.on_resumed is not None and self._is_running and not was_running:
            self.on_resumed()

    def die(self, reason: str) -> None:
        """Fail for good, as a guest does whose process was killed: nothing can be captured of it any more."""
        self.death = reason
        self._is_running = False

    def collect_dirty(self) -> Bitmap:
        """Get and clear the pages written."""
        self._must_be_paused()
        words = self._dirty[:]
        self._dirty = bytearray(len(words))
        return Bitmap((self._page_count,), (words,))

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put pages back."""
        both = Bitmap((self._page_count,), (self._dirty,)) | bitmap
        self._dirty = both.words[0]

    def save_devices(self) -> bytes:
        """Return the register; tell `on_saved` what the state is."""
        self._must_be_paused()
        if self.death is not None:
            raise GuestError(self.death)
        self.on_saved(self.fingerprint())
        return _REGISTER.pack(_MAGIC, self._steps)

    def load_devices(self, devices: bytes) -> None:
        """Take the register back."""
        self._must_be_paused()
        if self.death is not None:
            raise GuestError(self.death)
        if len(devices) != _REGISTER.size or devices[:4] != _MAGIC:
            raise GuestError("these bytes are no sim guest's devices")
        if self.fails_to_load():
            raise GuestError("the devices do not load this time")
        self._steps = self._flushed_at = _REGISTER.unpack(devices)[1]  # what flushed before is not known
        self.on_flushed(self._steps)

    def take_flush(self) -> bool:
        """Tell, once, whether it has flushed its disk, which is its memory."""
        taken, self._was_flushed = self._was_flushed, False
        return taken

    def rests_on(self, payload: bytes) -> int:
        """Return, once, the last step that flushed before an output was made, or the one from which the guest was
        loaded; 0 if there was none."""
        return self._rests_on.pop(payload, 0)

    def deliver(self, channel: str, payload: bytes) -> None:
        """Queue an input; the oldest is dropped if too many wait."""
        del channel
        self._inputs.append(payload)

    def failure(self) -> str | None:
        """Why it died, if it did."""
        return self.death

    def close(self) -> None:
        """Nothing to give back."""
        self._is_running = False

    def advance(self) -> None:
        """Run one step, if running."""
        if self._is_running:
            self._step(self._inputs.popleft() if self._inputs else b"", is_live=True)

    def _step(self, taken: bytes, *, is_live: bool) -> None:
        if self._sink is None:
            return
        mix, seen = _STATE.unpack_from(self._view, 0)
        if taken and is_live:
            self._sink.took_input(self.position, "net0", taken)
        self._steps += 1
        mix = hashlib.md5(mix + struct.pack("<Q", self._steps) + taken, usedforsecurity=False).digest()
        self._put_state(mix, seen + bool(taken))
        self._scribble(mix)
        if mix[1] % _FLUSH_EVERY == 0:
            self._was_flushed, self._flushed_at = True, self._steps
            self.on_flushed(self._steps)
        if taken or mix[0] % self._output_every == 0:
            self._rests_on[mix] = self._flushed_at
            self._sink.emit("net0", mix, self.position)
            self._is_running &= not self._stops

    def fingerprint(self) -> bytes:
        """Return a hash of memory and register: what a takeover must reproduce exactly."""
        return xxh3_128_digest(self._view) + struct.pack("<Q", self._steps)

    def memory_fingerprint(self) -> bytes:
        """Return the part of the fingerprint that memory has: a standby's devices are not loaded."""
        return self.fingerprint()[:16]

    def _scribble(self, mix: bytes) -> None:
        for place in range(self._pages_per_step):
            page = 1 + int.from_bytes(mix[place % 12 : place % 12 + 3], "little") % (self._page_count - 1)
            offset = pages_to_bytes(page) + mix[(place + 5) % 16] * 8
            self._view[offset : offset + 8] = mix[:8]
            self._mark(page)

    def _put_state(self, mix: bytes, seen: int) -> None:
        _STATE.pack_into(self._view, 0, mix, seen)
        self._mark(0)

    def _mark(self, page: int) -> None:
        self._dirty[page // 8] |= 1 << (page % 8)

    def _must_be_paused(self) -> None:
        if self._is_running:
            raise LocalProtocolError("only while paused")
