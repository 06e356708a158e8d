"""Anybody's monitor as a `Guest`: what docs/handover.md says, on our side of the socket.

It promises that `pause` returns with the guest standing still and all its outputs emitted, or with the connection
ended, so that nothing more can leave; and that a monitor that dies, hangs or lies is a failure with a reason, never a
guest that is taken for sound. Whether the monitor lets something out in another way cannot be seen from here.
"""

import os
from collections import deque
from pathlib import Path
from typing import Final

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import CompareTracker, OtherProcess, Tracker, UserfaultTracker
from ftvm.checkpoint import END_CHANNEL, Bitmap, Geometry, RegionShape, bitmap_bytes
from ftvm.errors import BadFrame, ClosedError, ConfigError, GuestError, LocalProtocolError, TrackingLost
from ftvm.guests.vmm.door import Arrival, MonitorDoor
from ftvm.guests.vmm.link import ANSWER_SECONDS, MonitorLink
from ftvm.guests.vmm.messages import CHANNEL, DEVICES_BYTES_MAX, OUTPUT_BYTES_MAX, read_bitmaps
from ftvm.interfaces import Capability, OutputSink, Region

__all__ = ["VmmGuest"]

_MEMORY_BYTES_MAX: Final = 4 << 30
_INPUTS_HELD_MAX: Final = 256
_END_SECONDS: Final = 0.5
_TRACKERS: Final = ("auto", "compare")


class VmmGuest:
    """A guest that another process runs, and hands over to this one. See `Guest` for the contract of each member.

    socket            where the monitor connects: a path, at which a socket is made for one monitor and taken away
                      again; or a door that stays open
    boots             True for a primary, whose monitor puts its program into the memory; False for a standby, whose
                      state comes by the first copy
    tracker           how written pages are found: "auto", as the monitor offers (by userfaultfd, by its own bitmap,
                      else compared), or "compare"
    memory_bytes_max  more is refused
    connect_seconds   how long to wait for the monitor, and then for its guest to stand ready
    answer_seconds    a monitor that takes longer for an answer has failed; if to `save` or `dirty`, the second time
    """

    def __init__(
        self,
        socket: str | Path | MonitorDoor,
        *,
        boots: bool = True,
        tracker: str = "auto",
        memory_bytes_max: int = _MEMORY_BYTES_MAX,
        connect_seconds: float = 60.0,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        """Wait for the monitor. Raises ConfigError, or GuestError if it did not come, or was refused."""
        if tracker not in _TRACKERS:
            raise ConfigError(f"unknown tracker {tracker!r} for a monitor's guest: there are {', '.join(_TRACKERS)}")
        door = socket if isinstance(socket, MonitorDoor) else MonitorDoor(socket)
        try:
            arrival = door.receive(boots=boots, seconds=connect_seconds, memory_bytes_max=memory_bytes_max)
        finally:
            if door is not socket:
                door.close()
        self._hello, self._memories = arrival.hello, arrival.memory
        self._counts = tuple(memory.page_count for memory in self._memories)
        self._sink: OutputSink | None = None
        self._is_running = self._stops_at_output = self._is_closed = False
        self._was_loaded = False
        self._inputs: deque[tuple[str, bytes]] = deque(maxlen=_INPUTS_HELD_MAX)
        self._link = MonitorLink(
            arrival.connection,
            f"the monitor (process {arrival.pid})",
            payload_bytes_max=max(DEVICES_BYTES_MAX, sum(map(bitmap_bytes, self._counts))),
            answer_seconds=answer_seconds,
            emit=self._emit,
            end=lambda reason: self._emit(END_CHANNEL, reason.encode()),
            may_wait=lambda reason: self._sink is None or self._sink.may_wait(reason),
            warn=self._warn,
        )
        self._warning = ""
        self._tracker = self._start_tracker(arrival, tracker)
        try:
            self._link.ask("pause", seconds=connect_seconds)  # its answer says that the memory is as the guest starts
        except BaseException:
            self.close()
            raise

    # --- what it is ---

    @property
    def geometry(self) -> Geometry:
        """Shape of memory, and kind of machine: the monitor's, its version's and its own words."""
        hello = self._hello
        return Geometry(
            machine=f"vmm/{hello.version} {hello.kind} {hello.software} {hello.machine}".rstrip(),
            regions=tuple(RegionShape(name=memory.name, page_count=memory.page_count) for memory in self._memories),
        )

    @property
    def memory(self) -> tuple[Region, ...]:
        """The regions that the monitor handed over."""
        return tuple(
            Region(name=memory.name, buffer=memory.buffer, page_count=memory.page_count) for memory in self._memories
        )

    @property
    def can(self) -> frozenset[Capability]:
        """That it tells of a silent monitor; and whether it stops at outputs, as its monitor says."""
        exact = {Capability.EXACT_OUTPUT_STOP} if self._hello.stops_at_outputs else set()
        return frozenset({Capability.TELLS_SILENCE} | exact)

    @property
    def tracker(self) -> str:
        """How written pages are found: userfault, bitmap or compare."""
        return self._tracker.name

    def failure(self) -> str | None:
        """Return why it can never run again, or None while it can."""
        return self._link.failure or self._link.guest_failure

    def silence(self) -> str | None:
        """Return for how long its monitor has not answered though it stands still, None if it answers."""
        return self._link.silence.reason

    def complaint(self) -> str | None:
        """Return what its monitor did wrong (it ended, hung or lied), though the guest may go on; None if nothing."""
        return self._link.complaint

    # --- running ---

    def attach(self, sink: OutputSink) -> None:
        """Give it the sink for its outputs; before the first run."""
        self._sink = sink
        if self._warning:
            sink.warn(self._warning)

    def stop_at_output(self, is_wanted: bool) -> None:
        """Have it pause by itself behind each output, from the next `resume` on. Only while paused."""
        self._require_paused("stop_at_output")
        self._stops_at_output = is_wanted

    def resume(self) -> None:
        """Let it run, and give it the inputs that came meanwhile. Idempotent."""
        if self._is_closed:
            raise ClosedError("the guest is closed")
        if self._sink is None:
            raise LocalProtocolError("attach a sink for the guest's outputs before it runs")
        if self._is_running or self.failure() is not None:
            return
        if self._was_loaded:
            self._was_loaded = False
            self._link.tell("announce")
        self._is_running = True
        self._link.let_run(stop_at_output=self._stops_at_output)
        while self._inputs:
            channel, payload = self._inputs.popleft()
            self._link.tell("input", channel, payload=payload)

    def pause(self) -> None:
        """Return when it stands still and all it said is emitted, or when its connection has ended. Idempotent."""
        if not self._is_running:
            return
        self._is_running = False
        try:
            self._link.ask("pause")
        except GuestError:
            return  # nothing of it can leave any more; `failure` tells why

    def deliver(self, channel: str, payload: bytes) -> None:
        """Give it an input; kept while it stands still, dropped where there is no room for it, or no such channel."""
        if len(payload) > OUTPUT_BYTES_MAX or not CHANNEL.fullmatch(channel):
            return
        if not self._is_running:
            self._inputs.append((channel, payload))
            return
        self._link.tell("input", channel, payload=payload)

    def close(self) -> None:
        """Give the guest up: its monitor stops it for good. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._is_running = False
            self._link.close()
            self._tracker.close()

    def cut(self) -> None:
        """End the connection without a word, as the death of this process would. For who checks a monitor."""
        self._link.cut()

    # --- its state ---

    def collect_dirty(self) -> Bitmap:
        """Get and clear the set of pages written since the last call, or more."""
        self._require_sound("collect_dirty")
        try:
            return self._tracker.collect()
        except TrackingLost:
            # A process that is killed gives its memory back before its connections: is the guest lost, or the tracking?
            self._link.wait_ended(_END_SECONDS)
            raise

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected."""
        self._tracker.restore(bitmap)

    def save_devices(self) -> bytes:
        """Return everything outside memory that the guest's future depends on."""
        self._require_sound("save_devices")
        return self._link.ask("save").payload

    def load_devices(self, devices: bytes) -> None:
        """Become the machine that `save_devices` described, on the memory as it is."""
        self._require_paused("load_devices")
        if len(devices) > DEVICES_BYTES_MAX:
            raise GuestError(f"{len(devices)} bytes of devices are more than the limit of {DEVICES_BYTES_MAX}")
        refusal = self._link.ask("load", devices).refusal
        if refusal:
            raise GuestError(f"the devices do not load: {refusal}")
        self._link.forget_guest_failure()
        self._inputs.clear()
        self._was_loaded = True
        self._tracker.restore(Bitmap.full(self._counts))  # we wrote the memory: its monitor's tracking saw nothing

    # --- helpers ---

    def _emit(self, channel: str, payload: bytes) -> None:
        if self._sink is not None:
            self._sink.emit(channel, payload)

    def _warn(self, reason: str) -> None:
        if self._sink is not None:
            self._sink.warn(reason)

    def _start_tracker(self, arrival: Arrival, wanted: str) -> Tracker:
        memory = NativeMemory([each.buffer for each in self._memories])
        if wanted == "auto" and arrival.userfault is not None and arrival.pagemap is not None:
            starts = [region.start for region in arrival.hello.regions]
            writer = OtherProcess(userfault=arrival.userfault, pagemap=arrival.pagemap, starts=starts)
            try:
                return UserfaultTracker(memory, writer=writer)
            except ConfigError as wrong:
                self._warning = f"each checkpoint compares every page of the guest, which is slow: {wrong}"
                return CompareTracker(memory)
        for descriptor in (arrival.userfault, arrival.pagemap):
            if descriptor is not None:
                os.close(descriptor)
        if wanted == "auto" and arrival.hello.tracking == "bitmap":
            return _BitmapTracker(self._link, self._counts)
        return CompareTracker(memory)

    def _require_paused(self, what: str) -> None:
        if self._is_closed:
            raise ClosedError("the guest is closed")
        if self._is_running:
            raise LocalProtocolError(f"{what} needs a paused guest")

    def _require_sound(self, what: str) -> None:
        self._require_paused(what)
        if self._link.failure is not None:
            raise GuestError(self._link.failure)


class _BitmapTracker:
    """Asks the monitor. See Tracker; its first answer tells of every page, whatever the monitor says."""

    name = "bitmap"

    def __init__(self, link: MonitorLink, page_counts: tuple[int, ...]) -> None:
        self._link, self._counts = link, page_counts
        self._restored: Bitmap | None = Bitmap.full(page_counts)

    def collect(self) -> Bitmap:
        """See Tracker."""
        restored, self._restored = self._restored, Bitmap.full(self._counts)  # what nobody hears the monitor forgets
        payload = self._link.ask("dirty").payload
        try:
            found = read_bitmaps(payload, self._counts)
        except BadFrame as wrong:
            self._link.refuse(str(wrong))
            raise GuestError(f"the monitor broke the protocol: {wrong}") from wrong
        self._restored = None
        return found if restored is None else found | restored

    def restore(self, bitmap: Bitmap) -> None:
        """See Tracker."""
        self._restored = bitmap if self._restored is None else self._restored | bitmap

    def close(self) -> None:
        """See Tracker; there is nothing to give back."""
