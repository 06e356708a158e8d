"""Guests of kind kvm: our monitor, on the processor."""

from dataclasses import replace
from typing import Final

from ftvm.cli.hostparts import card
from ftvm.cli.hostsettings import MEMORY, NIC, TRACKER, disk_data_bytes
from ftvm.cli.kinds.programs import ENTROPY, MEMORY_DISK, check_network, program_setting, read_image
from ftvm.cli.settings import HostSettings, Kind
from ftvm.guests.datagram import mac_bytes
from ftvm.guests.elf import X86_64, parse_elf
from ftvm.guests.kvm.guest import KvmGuest
from ftvm.guests.kvm.machine import DEVICE, KvmShape, check_device
from ftvm.guests.kvm.programs import NEED_NETWORK, SUMMARIES, read_program
from ftvm.interfaces import Capability, Guest

__all__ = ["KVM"]


def _make(settings: HostSettings) -> Guest:
    """Build the machine: with its program for a primary, blank for a standby."""
    address = card(settings)
    return KvmGuest(
        _image(settings["program"]) if settings.boots else None,
        memory_bytes=settings["memory"],
        mac=mac_bytes(address) if address is not None else None,
        disk=settings["disk"] or 0,
        has_entropy=settings["entropy"],
        tracker=settings["tracker"],
    )


def _image(program: str) -> bytes:
    return read_image(program, SUMMARIES, read_program)


def _check_program(settings: HostSettings) -> None:
    if settings.boots:  # a standby gets it from the active
        parse_elf(_image(settings["program"]), ram_base=0, ram_bytes=settings["memory"], architecture=X86_64)


def _check_tools(settings: HostSettings) -> str:
    del settings
    return f"{DEVICE} works: {check_device()}"


KVM: Final = Kind(
    name="kvm",
    settings=(
        replace(MEMORY, check=lambda settings: KvmShape(ram_bytes=settings["memory"])),
        replace(NIC, check=lambda settings: check_network(settings, NEED_NETWORK)),
        program_setting("the processor, at privilege level 3,", SUMMARIES, _check_program),
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
