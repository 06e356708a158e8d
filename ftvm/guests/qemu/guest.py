"""A stock QEMU as a `Guest`: paused and saved over QMP, its memory shared, its outputs taken from sockets.

It promises that `pause` returns with the machine stopped and everything it said emitted; that a QEMU which hangs, ends
or stops by itself is killed and never silently resumed; and that no process or file outlives `close`, or this process.
It cannot stop exactly at an output (Capability.EXACT_OUTPUT_STOP) nor repeat a run (REPLAY).

A state loads only into a QEMU that has not run yet. One that ran, or loaded before, or is silent, is replaced by a new
one on the same memory. Calls come from one thread at a time. See docs/qemu.md.
"""

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from ftvm._native.memory import NativeMemory
from ftvm.capture.trackers import CompareTracker, OtherProcess, StoreTracker, Tracker, UserfaultTracker
from ftvm.checkpoint import Bitmap, Geometry, RegionShape
from ftvm.errors import ClosedError, ConfigError, GuestError, LimitExceeded, LocalProtocolError, TrackingLost
from ftvm.guests.cards.card import PumpedCard
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.several import Disks
from ftvm.guests.qemu.devices import (
    Firmware,
    can_save_apart,
    count_flushes,
    head_of,
    join_parts,
    load_state,
    pack_devices,
    prepare_migration,
    refuse_blockers,
    refuse_unshared_memory,
    save_apart,
    save_whole,
    unpack_devices,
)
from ftvm.guests.qemu.gdb import serve_gdb
from ftvm.guests.qemu.machine import QemuMachine, disk_name
from ftvm.guests.qemu.memory import SharedMemory, joined, parted
from ftvm.guests.qemu.outputs import OutputGate
from ftvm.guests.qemu.process import QemuProcess
from ftvm.guests.qemu.processor import describe_processor
from ftvm.guests.qemu.qmp import Qmp
from ftvm.guests.qemu.watch import QemuWatch
from ftvm.interfaces import Capability, OutputSink, Region

__all__ = ["QemuGuest"]

_RUNNING: Final = ("running", "prelaunch")
_END_SECONDS: Final = 0.5
"""A dying QEMU closes its monitor before it is gone: how long to wait for the reason."""


class QemuGuest:
    """A QEMU under protection. See `Guest` for the contract of each member.

    machine  equal on both hosts
    boots    True for a primary, which starts from its firmware; False for a standby, which waits for a state
    disk     the path of this host's image of the disk, of machine.disk_bytes, or of each of several; a standby's are
             overwritten
    cards    the network cards, one for each of machine.mac, if they are pumped; closed with the guest
    tracker  how written pages are found: "userfault" (the kernel notes them), "compare" (every page is compared with a
             copy), or "auto": the first where it works, else the second, with a GuestWarned
    """

    def __init__(
        self,
        machine: QemuMachine,
        *,
        boots: bool,
        disk: str | Sequence[str] | None = None,
        cards: Sequence[PumpedCard] = (),
        tracker: str = "auto",
    ) -> None:
        """Start QEMU, paused. Raises ConfigError or GuestError; nothing is left running then."""
        if tracker not in ("auto", "userfault", "compare"):
            raise ConfigError(f"unknown tracker {tracker!r} for QEMU: there are auto, userfault and compare")
        wanted = len(machine.macs) if machine.is_pumped else 0
        if len(cards) != wanted:
            raise ConfigError(f"pumped cards of the machine: {wanted}; given to the guest: {len(cards)}")
        self._disks = _open_disks(machine, disk, boots=boots)
        self._machine = machine
        self.cards: Mapping[str, PumpedCard] = {f"card{number}": card for number, card in enumerate(cards)}
        self._tracker_wanted = tracker
        self._ram = SharedMemory("ram", machine.memory_bytes)
        self._firmware = Firmware()
        self._firmware_tracker = StoreTracker([self._firmware.memory.page_count])
        self._state = os.memfd_create("ftvm-devices", os.MFD_CLOEXEC)
        self._sink: OutputSink | None = None
        self._gate: OutputGate | None = None
        self._tracker: Tracker | None = None
        self._failure: str | None = None
        self._warned: set[str] = set()
        self._going = threading.Lock()
        self._is_running = False
        self._has_gone = False
        self._is_blank = not boots
        self._is_closed = False
        self._saved: bytes | None = None
        self._process = self._start(boots=boots)
        self._watch = QemuWatch(lambda: not self._is_running and self._process.qmp.look(), self._tell)
        try:
            refuse_unshared_memory(self._process.qmp)
            refuse_blockers(self._process.qmp)
            self._geometry = self._describe()
            self._saves_apart = can_save_apart(self._process.qmp)
            if boots:
                self._take_head()
        except BaseException:
            self.close()
            raise

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def geometry(self) -> Geometry:
        """Shape of memory and kind of machine: QEMU's version, machine type and arguments."""
        return self._geometry

    @property
    def memory(self) -> tuple[Region, ...]:
        """RAM, the machine's configuration and ROMs, and the disks."""
        return tuple(
            Region(
                name=memory.name,
                buffer=memory.buffer,
                page_count=memory.page_count,
                store=memory if isinstance(memory, Disk) else None,
            )
            for memory in self._memories()
        )

    @property
    def can(self) -> frozenset[Capability]:
        """That it tells of a silent QEMU."""
        return frozenset({Capability.TELLS_SILENCE})

    @property
    def pid(self) -> int:
        """QEMU's process id; another one after each time that a state was loaded into a new QEMU."""
        return self._process.pid

    @property
    def monitor(self) -> Qmp:
        """QEMU's monitor, for questions only: a change through it makes this machine differ from the other host's."""
        return self._process.qmp

    def failure(self) -> str | None:
        """Return why it can never run again, or None while it can."""
        return self._failure or self._process.why_ended() or self._watch.failure() or self._look_at_disks()

    def silence(self) -> str | None:
        """Return for how long QEMU has not answered though the machine stands still, None if it answers."""
        return self._watch.silence.reason

    def _look_at_disks(self) -> str | None:
        """Return why no guest could run from an image of this host, which stands by; warn where one runs from it.

        A guest may never read again what its image has lost; but what a standby has lost it could never get back.
        """
        for card in self.cards.values():
            self._warn(card.failure())
        for disk in self._disks:
            shorter = disk.why_shorter()
            if shorter is not None and not disk.is_guests:
                return shorter
            self._warn(shorter or disk.why_nameless())
        return None

    def _warn(self, ailment: str | None) -> None:
        """Tell of it, once."""
        if ailment is not None and ailment not in self._warned and self._sink is not None:
            self._warned.add(ailment)
            self._tell(ailment)

    def _tell(self, reason: str) -> None:
        if self._sink is not None:
            self._sink.warn(reason)

    # --- running ---------------------------------------------------------------------------------------------------

    def attach(self, sink: OutputSink) -> None:
        """Give it the sink for its outputs; before the first run."""
        self._sink = sink
        if self._machine.accel not in ("tcg", "kvm"):
            sink.warn(f"QEMU with accel {self._machine.accel} is not tested under protection: tcg and kvm are")
        self._open_gate()

    def pause(self) -> None:
        """Return when QEMU has stopped the machine and all it said is emitted. Idempotent.

        A QEMU that cannot be stopped is ended, so that this holds in any case; `failure` tells why.
        """
        if not self._is_running:
            return
        self._disks.hurry()
        with self._going:
            self._is_running = False
            has_gone, self._has_gone = self._has_gone, False
        if has_gone:
            try:
                self._stop()
            except (GuestError, LimitExceeded) as wrong:
                self._give_up(str(wrong))
        self._disks.rest()
        if self._gate is not None:
            self._gate.hold()

    def resume(self) -> None:
        """Let it run, as soon as the disks' devices have all that they were told to have. Does not wait. Idempotent."""
        if self._is_running or self.failure() is not None:
            return
        if self._is_closed:
            raise ClosedError("the guest is closed")
        if self._gate is None:
            raise LocalProtocolError("attach a sink for the guest's outputs before it runs")
        self._is_blank = False
        self._gate.flow()
        self._is_running = True
        self._disks.when_settled(self._go)

    def deliver(self, channel: str, payload: bytes) -> None:
        """Give it a frame ("net0") or keys ("console"); dropped where QEMU has no room, or nobody knows the channel.

        A card that is pumped takes its frames itself.
        """
        wire = self._channels().get(channel)
        if wire is None:
            return
        try:
            wire.send(payload)
        except OSError:
            return  # full, as a real card's ring can be; or QEMU has ended, which `failure` tells

    def serve_gdb(self, listener: int) -> None:
        """Have QEMU serve gdb at a listening socket. The machine stands until gdb lets it go on; gdb may change it.

        For a machine that is nobody else's (a clone): what gdb does, no other host hears of, and whoever pauses it
        behind this ends it. Raises GuestError if QEMU cannot.
        """
        self._require_paused("serve_gdb")
        if self._gate is None:
            raise LocalProtocolError("attach a sink for the guest's outputs before gdb runs it")
        serve_gdb(self._process.qmp, listener)
        self._is_blank = False
        self._saved = None
        self._gate.flow()
        # QEMU flushes its disks when gdb comes, and hangs until they are the guest's.
        self._disks.when_settled(lambda trouble: None if trouble is None else self._give_up(trouble))

    def close(self) -> None:
        """End QEMU and give everything back. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        with self._going:
            self._is_running = False
        self._watch.close()
        self._drop_process()
        os.close(self._state)
        for card in self.cards.values():
            card.close()
        for memory in self._memories():
            memory.close()

    # --- its state -------------------------------------------------------------------------------------------------

    def collect_dirty(self) -> Bitmap:
        """Get and clear the set of pages written since the last call, or more."""
        self._require_paused("collect_dirty")
        self._require_readable()
        try:
            parts = [self._ram_tracker().collect(), *(tracker.collect() for tracker in self._own_trackers())]
        except GuestError as wrong:
            if isinstance(wrong, TrackingLost):
                self._drop_tracker()
            self._note_end()
            raise
        return joined(parts)

    def restore_dirty(self, bitmap: Bitmap) -> None:
        """Put back what a failed capture had collected."""
        ram, *others = parted(bitmap)
        self._ram_tracker().restore(ram)
        for tracker, part in zip(self._own_trackers(), others, strict=True):
            tracker.restore(part)

    def save_devices(self) -> bytes:
        """Return the state of all devices and processors."""
        self._require_paused("save_devices")
        self._require_readable()  # what the capture has read of the disk by now
        if self._saved is None:
            qmp = self._process.qmp
            try:
                self._saved = pack_devices(save_apart(qmp, self._state) if self._saves_apart else save_whole(qmp))
            except GuestError:
                self._note_end()
                raise
        return self._saved

    def load_devices(self, devices: bytes) -> None:
        """Become the machine that `save_devices` described, on the memory as it is."""
        self._require_paused("load_devices")
        stream, head = unpack_devices(devices), self._firmware.get()
        if head:
            stream = join_parts(head, stream)
        if not self._is_blank or self._process.why_ended() is not None or self.silence() is not None:
            self._replace_process()
        self._is_blank = False
        self._saved = None
        try:
            load_state(self._process.qmp, stream)
        except GuestError as wrong:
            self._replace_process()
            raise GuestError(f"the state does not load: {wrong}") from wrong
        # Not asked of QEMU again before it runs: of a machine that was never stopped it saves KVM's clock as it is now,
        # which counts from the start of this QEMU, and would go on from there.
        self._saved = devices

    # --- helpers ---------------------------------------------------------------------------------------------------

    def _memories(self) -> tuple[SharedMemory | Disk, ...]:
        return (self._ram, self._firmware.memory, *self._disks)

    def _own_trackers(self) -> tuple[StoreTracker | Disk, ...]:
        """Return those of the regions that only we write to."""
        return (self._firmware_tracker, *self._disks)

    def _describe(self) -> Geometry:
        qmp = self._process.qmp
        version = qmp.execute("query-version")["qemu"]
        machine_type = qmp.execute("qom-get", path="/machine", property="type")
        processor = f" {describe_processor(qmp)}" if self._machine.accel.startswith("kvm") else ""
        shown = ".".join(str(version[part]) for part in ("major", "minor", "micro"))
        return Geometry(
            machine=self._machine.identity(shown, machine_type) + processor,
            regions=tuple(RegionShape(name=memory.name, page_count=memory.page_count) for memory in self._memories()),
        )

    def _go(self, trouble: str | None) -> None:
        """Have QEMU let the machine run, unless it was paused again meanwhile. Perhaps in the thread of a disk."""
        with self._going:
            if not self._is_running or self._has_gone:
                return
            self._has_gone = True
            self._saved = None
            try:
                if trouble is not None:
                    raise GuestError(trouble)
                self._process.qmp.execute("cont")
                self._process.haste.end()
            except GuestError as wrong:
                self._give_up(str(wrong))

    def _stop(self) -> None:
        qmp, haste = self._process.qmp, self._process.haste
        haste.begin()
        try:
            status, _ = qmp.execute_all([("query-status", {}), ("stop", {})])
        finally:
            haste.stopped()
        self._disks.note_flushes(self._process.pid, lambda: count_flushes(qmp))  # QEMU flushes, too, when it stops
        if status["status"] not in _RUNNING:
            raise GuestError(self._why_stopped(status["status"]))
        if any(event.name == "RESET" for event in qmp.take_events()):
            self._take_head()  # a reset loads ROMs again, and may change them

    def _take_head(self) -> None:
        """Bring the region up to date that holds what the device state leaves out."""
        if not self._saves_apart:
            return
        qmp = self._process.qmp
        self._firmware.put(head_of(save_whole(qmp), save_apart(qmp, self._state)))
        self._firmware_tracker.restore(Bitmap.full([self._firmware.memory.page_count]))

    def _why_stopped(self, status: str) -> str:
        if (trouble := self._disks.trouble) is not None:
            return f"QEMU stopped the guest ({status}): {trouble}"
        return f"QEMU stopped the guest ({status}), though ftvm had not asked for it"

    def _note_end(self) -> None:
        """Note why QEMU ended, if it did: it stops answering some milliseconds before its process is gone, and the
        caller of `failure` must know whether a capture failed or the guest is lost.
        """
        self._failure = self._failure or self._process.wait_ended(_END_SECONDS)

    def _give_up(self, reason: str) -> None:
        """Kill a QEMU that does not do what it should: it must not run on."""
        self._disks.hurry()  # its server may wait for a flush, and this for its server
        self._failure = self._failure or self._process.wait_ended(_END_SECONDS) or f"{reason}; it was killed"
        self._process.kill()

    def _replace_process(self) -> None:
        """Start a new QEMU on the same memory, waiting for a state."""
        self._drop_process()
        self._process = self._start(boots=False)
        self._failure = None
        self._is_blank = True
        if self._sink is not None:
            self._open_gate()

    def _start(self, *, boots: bool) -> QemuProcess:
        process = QemuProcess(
            self._machine,
            ram=self._ram.descriptor,
            state=self._state,
            disks=tuple(self._disks),
            boots=boots,
            cards=[card.wire for card in self.cards.values()],
        )
        process.qmp.may_wait = lambda reason: self._sink is None or self._sink.may_wait(reason)
        try:
            prepare_migration(process.qmp)
        except BaseException:
            process.close()
            raise
        return process

    def _drop_process(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None
        self._drop_tracker()
        self._process.close()

    def _open_gate(self) -> None:
        if self._gate is None and self._sink is not None:
            self._gate = OutputGate(self._sink, self._channels(), self.cards, self._disks)

    def _channels(self) -> dict[str, socket.socket]:
        network = {} if self.cards else {"net0": self._process.network}
        return {**network, "console": self._process.console}

    def _ram_tracker(self) -> Tracker:
        if self._tracker is None:
            self._tracker = self._start_tracker()
        return self._tracker

    def _start_tracker(self) -> Tracker:
        """Start tracking, no sooner than it is needed: a guest without a standby pays nothing.

        Raises GuestError if QEMU says by now that it cannot save the machine.
        """
        try:
            refuse_blockers(self._process.qmp)
        except ConfigError as wrong:
            raise GuestError(str(wrong)) from wrong
        memory = NativeMemory([self._ram.buffer])
        if self._tracker_wanted == "compare":
            return CompareTracker(memory)
        try:
            return self._track_faults(memory)
        except (ConfigError, GuestError, OSError) as wrong:
            if self._tracker_wanted == "userfault":
                raise GuestError(str(wrong)) from wrong
            self._tell(f"each checkpoint compares every page of the guest, which is slow: {wrong}")
            return CompareTracker(memory)

    def _track_faults(self, memory: NativeMemory) -> Tracker:
        start = self._ram.address_in(self._process.pid)
        userfault = self._process.take_userfault()
        if userfault is None:
            raise ConfigError(self._process.userfault_refused or "QEMU's userfaultfd was used already")
        try:
            pagemap = os.open(f"/proc/{self._process.pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(userfault)
            raise
        return UserfaultTracker(memory, writer=OtherProcess(userfault=userfault, pagemap=pagemap, starts=[start]))

    def _drop_tracker(self) -> None:
        if self._tracker is not None:
            self._tracker.close()
            self._tracker = None

    def _require_readable(self) -> None:
        self._disks.require_readable()

    def _require_paused(self, what: str) -> None:
        if self._is_closed:
            raise ClosedError("the guest is closed")
        if self._is_running:
            raise LocalProtocolError(f"{what} needs a paused guest")
        reason = self.failure() if what != "load_devices" else None
        if reason is not None:
            raise GuestError(reason)


def _open_disks(machine: QemuMachine, disk: str | Sequence[str] | None, *, boots: bool) -> Disks:
    paths = () if disk is None else (disk,) if isinstance(disk, str) else tuple(disk)
    if disk is None and machine.disks:
        raise ConfigError(f"the machine has a disk of {machine.disks[0]} bytes: say where its image is here")
    return Disks.open(paths, machine.disks, [disk_name(number) for number in range(len(paths))], boots=boots)
