"""A KVM machine as a `Guest`: C runs it and serves its devices; one thread here emits what it says.

It promises that `pause` returns with the processor between two instructions and all outputs made so far emitted, in
order. Inputs that were delivered but not yet taken by the machine are not part of its state: they may be lost at a
takeover, as on any network. The guest's clocks run on while it is paused, and go on by the wall clock at a takeover.
"""

import threading
from pathlib import Path
from typing import Final

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import choose_tracker
from ftvm.checkpoint import END_CHANNEL, Bitmap, Geometry, RegionShape
from ftvm.errors import ClosedError, LocalProtocolError
from ftvm.guests.elf import X86_64, parse_elf
from ftvm.guests.files import disk_bytes, fill_disk, read_program_file
from ftvm.guests.kvm.machine import DEVICE, KvmEndedBy, KvmMachine, KvmMemory, KvmShape, News
from ftvm.interfaces import Capability, OutputSink, Region

__all__ = ["KvmGuest"]

_DEFAULT_MAC: Final = bytes.fromhex("525400123456")


class KvmGuest:
    """A program on the processor under protection, by Linux's KVM. See `Guest` for the contract of each member.

    program       an x86-64 ELF executable for the machine, or its path; None for a standby, whose memory comes by the
                  first copy
    memory_bytes  size of RAM, at most 3 GiB
    mac           address of the network card; None for no card
    disk          the virtio block device: a raw image's path, the content itself, or a size in bytes; 0 for no disk. It
                  is memory: a file is read once, here, and never written
    has_entropy   whether there is an entropy device, fed by this host's random numbers
    tracker       how written pages are found: "auto", "userfault" or "compare"
    device        where KVM is

    Memory, card, size of the disk, entropy and the processor must be equal on both hosts. Raises ConfigError or
    ImageError, before anything is left open.
    """

    def __init__(
        self,
        program: bytes | str | Path | None,
        *,
        memory_bytes: int = 64 << 20,
        mac: bytes | None = _DEFAULT_MAC,
        disk: bytes | int | str | Path = 0,
        has_entropy: bool = True,
        tracker: str = "auto",
        device: str = DEVICE,
    ) -> None:
        shape = KvmShape(ram_bytes=memory_bytes, mac=mac, disk_bytes=disk_bytes(disk), has_entropy=has_entropy)
        image = program if isinstance(program, bytes) or program is None else read_program_file(Path(program))
        loaded = None if image is None else parse_elf(image, ram_base=0, ram_bytes=memory_bytes, architecture=X86_64)
        self._machine = KvmMachine(shape, device=device)
        try:
            if loaded is not None:
                self._machine.boot(loaded)
                fill_disk(disk, self._machine.disk)
            chosen = choose_tracker(NativeMemory([memory.buffer for memory in self._memories()]), tracker)
        except BaseException:
            self._machine.close()
            raise
        self._tracker = chosen.tracker
        self._warning = f"each checkpoint compares every page: {chosen.reason}" if chosen.is_fallback else ""
        self._sink: OutputSink | None = None
        self._failure: str | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._attend, name="kvm-guest", daemon=True)

    # --- what it is ---

    @property
    def geometry(self) -> Geometry:
        """Shape of memory, and kind of machine: what the processor can do is a part of it."""
        regions = tuple(RegionShape(name=region.name, page_count=region.page_count) for region in self.memory)
        return Geometry(machine=f"kvm/1 {self._machine.shape} cpu={self._machine.cpu}", regions=regions)

    @property
    def memory(self) -> tuple[Region, ...]:
        """RAM, and the disk if there is one."""
        return tuple(
            Region(name=name, buffer=memory.buffer, page_count=memory.page_count)
            for name, memory in zip(("ram", "disk"), self._memories(), strict=False)
        )

    @property
    def can(self) -> frozenset[Capability]:
        """What it can do beyond the least."""
        return frozenset({Capability.EXACT_OUTPUT_STOP})

    @property
    def tracker(self) -> str:
        """How written pages are found."""
        return self._tracker.name

    def failure(self) -> str | None:
        """Return why it can never run again, or None while it can."""
        return self._failure

    def clocks(self) -> tuple[int, int]:
        """Return what the guest's clocks read now: its kvmclock in nanoseconds, and its time stamp counter."""
        return self._machine.clocks()

    # --- what the host asks of it ---

    def attach(self, sink: OutputSink) -> None:
        """Give it the sink for its outputs; before the first run."""
        self._sink = sink
        if self._warning:
            sink.warn(self._warning)

    def stop_at_output(self, is_wanted: bool) -> None:
        """Pause by itself behind each instruction that makes an output, once that is emitted. Only while paused."""
        self._require_paused("stop_at_output")
        self._machine.stop_at_output(is_wanted)

    def resume(self) -> None:
        """Let it run. Idempotent."""
        if self._is_closed:
            raise ClosedError("the guest is closed")
        self._attached()
        if self._failure is not None:
            return
        if self._thread.ident is None:
            self._thread.start()
        self._machine.resume()

    def pause(self) -> None:
        """Return when the machine stands between two instructions and all its outputs are emitted. Idempotent."""
        if not self._is_closed:
            self._machine.pause(is_attendant=threading.current_thread() is self._thread)

    def close(self) -> None:
        """Stop it, join its thread, and give back what KVM holds. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._machine.dismiss()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join()
        self._machine.close()
        self._tracker.close()

    def deliver(self, channel: str, payload: bytes) -> None:
        """Give it a frame ("net0") or keys ("console"); dropped when too much waits already, or nobody knows the
        channel."""
        if channel == "net0":
            self._machine.receive_frame(payload)
        elif channel == "console":
            self._machine.receive_console(payload)

    def collect_dirty(self) -> Bitmap:
        """Get and clear the set of pages written since the last call."""
        self._require_paused("collect_dirty")
        found = self._tracker.collect()
        page = self._machine.clock_page
        if page is not None:
            found.words[0][page // 8] |= 1 << page % 8  # KVM writes it past all page tables: no tracker sees that
        return found

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected."""
        self._require_paused("restore_dirty")
        if bitmap.page_counts != tuple(memory.page_count for memory in self._memories()):
            raise LocalProtocolError("the bitmap is of another geometry")
        self._tracker.restore(bitmap)

    def save_devices(self) -> bytes:
        """Return everything outside memory that the machine's future depends on."""
        self._require_paused("save_devices")
        return self._machine.save()

    def load_devices(self, devices: bytes) -> None:
        """Become the machine that `save_devices` described, on the memory as it is."""
        self._require_paused("load_devices")
        self._machine.load(devices)
        if self._thread.ident is None or self._thread.is_alive():
            self._failure = None

    def _memories(self) -> tuple[KvmMemory, ...]:
        disk = self._machine.disk
        return (self._machine.ram,) if disk is None else (self._machine.ram, disk)

    def _require_paused(self, what: str) -> None:
        if not self._machine.is_paused:
            raise LocalProtocolError(f"{what} needs the guest paused")

    def _attached(self) -> OutputSink:
        if self._sink is None:
            raise LocalProtocolError("attach a sink for the guest's outputs before it runs")
        return self._sink

    # --- its thread ---

    def _attend(self) -> None:
        """Emit what the machine says, until it is to be closed."""
        try:
            while not (news := self._machine.wait_for_news()) & News.CLOSING:
                for output in self._machine.take_outputs():
                    self._attached().emit(output.channel, output.payload)
                if news & News.ENDED:
                    self._tell_end()
        finally:
            if not self._is_closed:
                self._failure = self._failure or "the guest's thread ended by an error"
            self._machine.leave()

    def _tell_end(self) -> None:
        ending = self._machine.ending
        self._failure = str(ending)
        if ending.by is KvmEndedBy.PROGRAM and ending.detail == 0:
            self._attached().emit(END_CHANNEL, b"the program ended with code 0")
