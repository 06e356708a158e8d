"""Guests of kind kvm: our monitor, on the processor."""

from dataclasses import replace
from typing import Final

from ftvm.cli.hostparts import card
from ftvm.cli.hostsettings import MEMORY, NIC, TRACKER, disk_data_bytes
from ftvm.cli.kinds.programs import ENTROPY, MEMORY_DISK, check_network, program_setting, read_image
from ftvm.cli.settings import HostSettings, Kind, Setting, in_folder
from ftvm.errors import ConfigError
from ftvm.guests.datagram import mac_bytes
from ftvm.guests.elf import X86_64, parse_elf
from ftvm.guests.kvm.guest import KvmGuest
from ftvm.guests.kvm.machine import DEVICE, PROCESSORS_MAX, KvmShape, check_device
from ftvm.guests.kvm.programs import NEED_NETWORK, SUMMARIES, read_program
from ftvm.guests.kvm.system import KvmSystem, check_system
from ftvm.interfaces import Capability, Guest

__all__ = ["KVM"]


def _make(settings: HostSettings) -> Guest:
    """Build the machine: with its program or system for a primary, blank for a standby."""
    address = card(settings)
    return KvmGuest(
        _boots(settings) if settings.boots else None,
        processors=settings["processors"],
        memory_bytes=settings["memory"],
        mac=mac_bytes(address) if address is not None else None,
        disk=settings["disk"] or 0,
        has_entropy=settings["entropy"],
        tracker=settings["tracker"],
    )


def _boots(settings: HostSettings) -> bytes | KvmSystem:
    return _system(settings) if settings["processors"] else _image(settings["program"])


def _system(settings: HostSettings) -> KvmSystem:
    return KvmSystem(kernel=settings["kernel"], ramdisk=settings["ramdisk"] or b"", command_line=settings["append"])


def _image(program: str) -> bytes:
    return read_image(program, SUMMARIES, read_program)


def _check_nic(settings: HostSettings) -> None:
    if not settings["processors"]:
        check_network(settings, NEED_NETWORK)


def _check_processors(settings: HostSettings) -> None:
    KvmShape(processors=settings["processors"])
    if settings["processors"] and settings.boots and settings["kernel"] is None:
        raise ConfigError("processors are for a system: give its kernel, too, or leave processors out")


def _check_kernel(settings: HostSettings) -> None:
    if settings["kernel"] is not None and not settings["processors"]:
        raise ConfigError("a kernel needs processors: write processors = 1, or more")
    if settings["kernel"] is not None and settings.boots:  # a standby gets it from the active
        check_system(_system(settings), memory_bytes=settings["memory"])


def _check_ramdisk(settings: HostSettings) -> None:
    if settings["ramdisk"] is not None and not settings["processors"]:
        raise ConfigError("a ramdisk is for a system: give its kernel, too, or leave ramdisk out")


def _processors(written: float) -> int:
    if written != int(written):
        raise ConfigError(f"{written}: write how many processors, a whole number")
    return int(written)


def _check_program(settings: HostSettings) -> None:
    if settings.boots and not settings["processors"]:  # a standby gets it from the active
        parse_elf(_image(settings["program"]), ram_base=0, ram_bytes=settings["memory"], architecture=X86_64)


def _check_tools(settings: HostSettings) -> str:
    return f"{DEVICE} works: {check_device(processors=settings['processors'])}"


KVM: Final = Kind(
    name="kvm",
    settings=(
        replace(MEMORY, check=lambda settings: KvmShape(ram_bytes=settings["memory"])),
        replace(NIC, check=_check_nic),
        program_setting("the processor, at privilege level 3,", SUMMARIES, _check_program),
        Setting(
            name="processors",
            written="number",
            default=0,
            parse=_processors,
            check=_check_processors,
            help=f"How many processors a system has, 1 to {PROCESSORS_MAX}, equal on both hosts; 0: the machine runs a "
            "program.",
        ),
        Setting(
            name="kernel",
            metavar="FILE",
            locate=in_folder,
            check=_check_kernel,
            help="A Linux kernel to boot instead of a program; needs processors. A standby needs none.",
        ),
        Setting(
            name="ramdisk",
            metavar="FILE",
            locate=in_folder,
            check=_check_ramdisk,
            help="The kernel's first file system.",
        ),
        Setting(
            name="append",
            default="console=ttyS0",
            metavar="TEXT",
            help="What the kernel is told.",
        ),
        MEMORY_DISK,
        ENTROPY,
        TRACKER,
    ),
    can=frozenset({Capability.EXACT_OUTPUT_STOP}),
    make=_make,
    memory_bytes=lambda settings: settings["memory"],
    shadow_bytes=lambda settings: settings["memory"] + disk_data_bytes(settings),
    check_tools=_check_tools,
)
