"""A KVM machine as a `Guest`: C runs it and serves its devices; one thread here emits what it says.

It promises that `pause` returns with the processor between two instructions and all outputs made so far emitted, in
order. Inputs that were delivered but not yet taken by the machine are not part of its state: they may be lost at a
takeover, as on any network. The guest's clocks run on while it is paused, and go on by the wall clock at a takeover.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from ftvm.checkpoint import END_CHANNEL, Bitmap, Geometry, RegionShape
from ftvm.errors import ConfigError, LocalProtocolError
from ftvm.guests.disk.kept import open_disk, regions_of
from ftvm.guests.elf import X86_64, Program, parse_elf
from ftvm.guests.files import read_program_file
from ftvm.guests.kvm.log import choose_kvm_tracker
from ftvm.guests.kvm.machine import DEVICE, KvmEndedBy, KvmMachine, KvmShape, News
from ftvm.guests.kvm.system import KvmSystem
from ftvm.guests.thread import GuestThread
from ftvm.interfaces import Capability, OutputSink, Region

__all__ = ["KvmGuest"]

_DEFAULT_MAC: Final = bytes.fromhex("525400123456")


class KvmGuest:
    """A program or a system on the processor under protection, by Linux's KVM. See `Guest` for each member's contract.

    program       an x86-64 ELF executable for the machine, or its path; or a system to boot; None for a standby, whose
                  memory comes by the first copy
    processors    of a system, 1 to 4; 0 for a program, which has one without interrupts
    memory_bytes  size of RAM, at most 3 GiB
    mac           address of the network card; None for no card
    disk          the virtio block device: the path of a raw image, which is this guest's alone and is kept at its last
                  checkpoint, and at its end; or the content itself, or a size in bytes, in memory only; 0 for no disk.
                  A standby's image is overwritten
    has_entropy   whether there is an entropy device, fed by this host's random numbers
    tracker       how written pages are found: "log" (KVM's own), "userfault" or "compare", or with "auto" the
                  first of them that there is
    device        where KVM is

    Memory, card, size of the disk, entropy, the processor and their number must be equal on both hosts.
    Raises ConfigError or ImageError, before anything is left open.
    """

    def __init__(
        self,
        program: bytes | str | Path | KvmSystem | None,
        *,
        processors: int = 0,
        memory_bytes: int = 64 << 20,
        mac: bytes | None = _DEFAULT_MAC,
        disk: bytes | int | str | Path = 0,
        has_entropy: bool = True,
        tracker: str = "auto",
        device: str = DEVICE,
    ) -> None:
        loaded = _load(program, processors, memory_bytes)
        with ExitStack() as undo:
            size_bytes, self._kept = open_disk(disk, boots=program is not None)
            if self._kept is not None:
                undo.callback(self._kept.close)
            shape = KvmShape(
                ram_bytes=memory_bytes,
                mac=mac,
                disk_bytes=size_bytes,
                has_entropy=has_entropy,
                processors=processors,
            )
            memory = self._kept.memory if self._kept is not None else None
            self._machine = KvmMachine(shape, device=device, disk=memory)
            undo.callback(self._machine.close)
            if isinstance(loaded, KvmSystem):
                self._machine.boot_system(loaded)
            elif loaded is not None:
                self._machine.boot(loaded)
            chosen = choose_kvm_tracker(self._machine, tracker)
            undo.pop_all()
        if self._machine.disk is not None and isinstance(disk, bytes) and loaded is not None:
            self._machine.disk.write(0, disk)
        self._tracker = chosen.tracker
        self._is_system = processors > 0
        self._thread = GuestThread(
            "kvm-guest", self._attend, self._machine.leave, kept=self._kept, warning=chosen.warning
        )

    # --- what it is ---

    @property
    def geometry(self) -> Geometry:
        """Shape of memory, and kind of machine: what the processor can do is a part of it."""
        regions = tuple(RegionShape(name=region.name, page_count=region.page_count) for region in self.memory)
        return Geometry(machine=f"kvm/1 {self._machine.shape} cpu={self._machine.cpu}", regions=regions)

    @property
    def memory(self) -> tuple[Region, ...]:
        """RAM, and the disk if there is one."""
        return regions_of(self._machine.ram.buffer, self._machine.disk, self._kept)

    @property
    def can(self) -> frozenset[Capability]:
        """What it can do beyond the least."""
        return frozenset({Capability.EXACT_OUTPUT_STOP})

    @property
    def tracker(self) -> str:
        """How written pages are found."""
        return self._tracker.name

    def failure(self) -> str | None:
        """Return why it can never run again, or None while it can; warn of what becomes of its disk's image."""
        return self._thread.look()

    def clocks(self) -> tuple[int, int]:
        """Return what the guest's clocks read now: its kvmclock in nanoseconds, and its time stamp counter."""
        return self._machine.clocks()

    # --- what the host asks of it ---

    def attach(self, sink: OutputSink) -> None:
        """Give it the sink for its outputs; before the first run."""
        self._thread.attach(sink)

    def stop_at_output(self, is_wanted: bool) -> None:
        """Pause by itself behind each instruction that makes an output, once that is emitted. Only while paused."""
        self._require_paused("stop_at_output")
        self._machine.stop_at_output(is_wanted)

    def resume(self) -> None:
        """Let it run. Idempotent."""
        self._thread.start()
        if self._thread.failure is None:
            self._machine.resume()

    def pause(self) -> None:
        """Return when the machine stands between two instructions and all its outputs are emitted. Idempotent."""
        if not self._thread.is_closed:
            self._machine.pause(is_attendant=self._thread.is_current)

    def close(self) -> None:
        """Stop it, join its thread, and give back what KVM holds. Idempotent."""
        if not self._thread.close(self._machine.dismiss):
            return
        self._machine.close()
        self._tracker.close()
        if self._kept is not None:
            self._kept.close()

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
        kept, disk = self._kept, self._machine.disk
        if kept is not None:
            kept.require_readable()  # before anything is taken
        found = self._tracker.collect()
        for page in self._machine.clock_pages:
            found.words[0][page // 8] |= 1 << page % 8  # KVM writes it past all page tables: no tracker sees that
        if disk is None:
            return found
        words = disk.take_dirty() if kept is None else kept.take()
        return Bitmap((*found.page_counts, disk.page_count), (*found.words, words))

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected."""
        self._require_paused("restore_dirty")
        if bitmap.page_counts != tuple(region.page_count for region in self.memory):
            raise LocalProtocolError("the bitmap is of another geometry")
        self._tracker.restore(Bitmap(bitmap.page_counts[:1], bitmap.words[:1]))
        if self._machine.disk is not None:
            self._machine.disk.put_dirty(bitmap.words[1])

    def save_devices(self) -> bytes:
        """Return everything outside memory that the machine's future depends on."""
        self._require_paused("save_devices")
        return self._machine.save()

    def load_devices(self, devices: bytes) -> None:
        """Become the machine that `save_devices` described, on the memory as it is."""
        self._require_paused("load_devices")
        self._machine.load(devices)
        self._thread.revive()

    def _require_paused(self, what: str) -> None:
        if not self._machine.is_paused:
            raise LocalProtocolError(f"{what} needs the guest paused")

    # --- its thread ---

    def _attend(self) -> None:
        """Emit what the machine says, until it is to be closed."""
        while not (news := self._machine.wait_for_news()) & News.CLOSING and not self._thread.has_lost_its_disk():
            for output in self._machine.take_outputs():
                self._thread.sink.emit(output.channel, output.payload)
            if news & News.ENDED:
                self._tell_end()

    def _tell_end(self) -> None:
        ending = self._machine.ending
        is_done = ending.by is KvmEndedBy.PROGRAM and ending.detail == 0
        why = "the system switched itself off" if is_done and self._is_system else str(ending)
        self._thread.failure = why
        if is_done:
            self._thread.sink.emit(END_CHANNEL, why.encode())


def _load(
    program: bytes | str | Path | KvmSystem | None, processors: int, memory_bytes: int
) -> Program | KvmSystem | None:
    """Return what boots, a program taken apart. Raises ConfigError, ImageError."""
    if isinstance(program, KvmSystem) and not processors:
        raise ConfigError("a system needs a machine with processors=1 or more: with none it runs a program")
    if program is None or isinstance(program, KvmSystem):
        return program
    if processors:
        raise ConfigError("a program has one processor without interrupts: leave out `processors`")
    image = program if isinstance(program, bytes) else read_program_file(Path(program))
    return parse_elf(image, ram_base=0, ram_bytes=memory_bytes, architecture=X86_64)
