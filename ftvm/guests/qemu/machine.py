"""Describes a protected QEMU: memory, devices and command line.

Promises: two equal machines get command lines that differ only in what is theirs alone (file descriptors, and whether
they boot or wait for a state), so that the state of one loads on the other. Nothing on the command line names a path of
ours: sockets and memory are inherited descriptors, which vanish with the last process that holds them. Starts nothing.
"""

import shlex
from dataclasses import dataclass
from typing import Final

import xxhash

from ftvm.errors import ConfigError
from ftvm.guests.datagram import mac_bytes
from ftvm.guests.qemu.arguments import check_arguments
from ftvm.units import PAGE_BYTES

__all__ = ["CARDS_MAX", "DISKS_MAX", "RAM_ID", "QemuMachine", "Wires", "disk_name"]

CARDS_MAX: Final = 8
DISKS_MAX: Final = 16
RAM_ID: Final = "ftvm-ram"
"""QEMU's name for the memory: part of the device state, so the same on all hosts for ever."""

_MIB: Final = 1 << 20
_CYLINDER_BYTES: Final = 16 * 63 * 512
_CYLINDERS_MAX: Final = 16_383
_DISK_FEATURES: Final = "max-discard-sectors=2048,max-write-zeroes-sectors=2048,queue-size=64"
"""A stop waits for all that is asked of a disk: so 64 requests at once, not 256 as is QEMU's default, each of at most a
MiB, trims and zeros too, which else ask for gigabytes in a few bytes. The state of a disk with other features does not
load, so the other host is told."""
_IDENTITY_CHARS_MAX: Final = 700
"""What fits the handshake beside the rest; longer arguments are compared by their digest."""


def disk_name(number: int) -> str:
    """Return the name of a disk: the first has no number, as where there is one."""
    return f"disk{number or ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wires:
    """Descriptors that QEMU inherits: shared memory, the file for device state, its ends of the sockets, and for the
    network that of a datagram socket, or the tap or datagram socket of each card."""

    ram: int
    state: int
    monitor: int
    console: int
    networks: tuple[int, ...]
    disks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuMachine:
    """A machine to protect; equal on both hosts.

    memory_bytes  RAM, in whole MiB
    arguments     your own QEMU arguments: kernel, firmware, cpu, machine type, devices (see accepted.py)
    mac           the network card's address, or that of each of several, which must be pumped; None: no card
    is_pumped     each card is a PumpedCard's
    offloads      pumped cards are taps, with what they offload; else frames come and go as datagrams, as without a pump
    disk_bytes    size of the disk that is replicated with the memory, or of each of several; 0: none
    accel         "tcg", or whatever QEMU has here
    program       the QEMU to run
    folder        where relative paths in `arguments` count from; None: the working directory
    """

    memory_bytes: int
    arguments: tuple[str, ...] = ()
    mac: str | tuple[str, ...] | None = None
    disk_bytes: int | tuple[int, ...] = 0
    accel: str = "tcg"
    program: str = "qemu-system-x86_64"
    folder: str | None = None
    is_pumped: bool = False
    offloads: bool = True

    def __post_init__(self) -> None:
        if self.memory_bytes <= 0 or self.memory_bytes % _MIB:
            raise ConfigError(f"memory of {self.memory_bytes} bytes: QEMU takes whole MiB, at least one")
        for disk in self.disks:
            if disk <= 0 or disk % PAGE_BYTES:
                raise ConfigError(f"a disk of {disk} bytes: it must be a multiple of {PAGE_BYTES}, not 0")
        if len(self.disks) > DISKS_MAX:
            raise ConfigError(f"{len(self.disks)} disks: a guest has at most {DISKS_MAX}")
        self._check_cards()
        check_arguments(self.arguments)

    def _check_cards(self) -> None:
        for mac in self.macs:
            mac_bytes(mac)
        if self.is_pumped and not self.macs:
            raise ConfigError("a card that is pumped needs an address: mac")
        if len(self.macs) > 1 and not self.is_pumped:
            raise ConfigError(f"{len(self.macs)} cards: where there are several, each must be pumped (pump:NAME)")
        if len(self.macs) > CARDS_MAX:
            raise ConfigError(f"{len(self.macs)} cards: a guest has at most {CARDS_MAX}")
        if len({mac.lower() for mac in self.macs}) < len(self.macs):
            raise ConfigError(f"two cards have one address ({', '.join(self.macs)}): give each its own")

    @property
    def macs(self) -> tuple[str, ...]:
        """The address of each card."""
        if isinstance(self.mac, tuple):
            return self.mac
        return (self.mac,) if self.mac is not None else ()

    @property
    def disks(self) -> tuple[int, ...]:
        """The size of each disk."""
        if isinstance(self.disk_bytes, tuple):
            return self.disk_bytes
        return (self.disk_bytes,) if self.disk_bytes else ()

    def identity(self, version: str, machine_type: str) -> str:
        """Return what must be equal on both hosts, for the handshake, given what QEMU says of itself."""
        words = [
            *("-accel", self.accel),
            *(word for mac in self.macs for word in ("mac", mac)),
            *(("pump" if self.offloads else "pump-plain",) if self.is_pumped else ()),
            *(("disk", _DISK_FEATURES) if self.disks else ()),
            *self.arguments,
        ]
        arguments = shlex.join(words)
        if len(arguments) > _IDENTITY_CHARS_MAX:
            digest = xxhash.xxh3_64_hexdigest(arguments.encode())
            arguments = f"{arguments[:_IDENTITY_CHARS_MAX]}... (all: {digest})"
        return f"QEMU {version} {machine_type} {self.memory_bytes // _MIB} MiB: {arguments}"

    def command(self, wires: Wires, *, boots: bool) -> list[str]:
        """Return the command line; without `boots` the machine waits for a state to load."""
        ram = f"memory-backend-file,id={RAM_ID},size={self.memory_bytes},mem-path=/proc/self/fd/{wires.ram},share=on"
        words = [self.program, "-nodefaults", "-display", "none", "-no-user-config", "-S"]
        words += ["-accel", self.accel, "-m", f"{self.memory_bytes // _MIB}M", "-object", ram]
        words += self.arguments
        words += ["-machine", f"memory-backend={RAM_ID},suppress-vmdesc=on"]
        words += ["-chardev", f"socket,id=ftvm-monitor,fd={wires.monitor}", "-mon", "ftvm-monitor,mode=control"]
        words += ["-chardev", f"socket,id=ftvm-console,fd={wires.console}", "-serial", "chardev:ftvm-console"]
        for number, (mac, wire) in enumerate(zip(self.macs, wires.networks, strict=True)):
            name = f"ftvm-net{number or ''}"
            is_tap = self.is_pumped and self.offloads
            kind = f"tap,id={name},fd" if is_tap else f"dgram,id={name},local.type=fd,local.str"
            words += ["-netdev", f"{kind}={wire}"]
            # Without guest_announce=off, QEMU 7.2 crashes when a card that came by migration is reset: it frees the
            # timer of the announcement and stops it again. We announce the address ourselves.
            words += ["-device", f"virtio-net-pci,netdev={name},romfile=,guest_announce=off,mac={mac}"]
        for number, (size, wire) in enumerate(zip(self.disks, wires.disks, strict=True)):
            # State the geometry, or QEMU guesses it from the disk's content, which a standby does not have yet.
            cylinders, name = min(max(size // _CYLINDER_BYTES, 2), _CYLINDERS_MAX), f"ftvm-{disk_name(number)}"
            words += ["-blockdev", f"nbd,node-name={name},server.type=fd,server.str={wire},discard=unmap"]
            words += ["-device", f"virtio-blk-pci,drive={name},cyls={cylinders},heads=16,secs=63,{_DISK_FEATURES}"]
        return words if boots else [*words, "-incoming", "defer"]
