"""Guests of kind riscv: the built-in machine."""

import os
from dataclasses import replace
from typing import Final

from ftvm.cli.hostparts import card
from ftvm.cli.hostsettings import MEMORY, NIC, disk_bytes, disk_data_bytes
from ftvm.cli.kinds.programs import ENTROPY, MEMORY_DISK, check_network, program_setting, read_image
from ftvm.cli.settings import HostSettings, Kind, Setting
from ftvm.errors import ConfigError
from ftvm.guests.datagram import mac_bytes
from ftvm.guests.elf import parse_elf
from ftvm.guests.riscv.guest import RiscvGuest
from ftvm.guests.riscv.machine import RAM_BASE
from ftvm.guests.riscv.programs import NEED_DISK, NEED_NETWORK, SUMMARIES, read_program
from ftvm.interfaces import Capability, Guest
from ftvm.runtime.clock import MonotonicClock

__all__ = ["RISCV"]


def _make(settings: HostSettings) -> Guest:
    """Build the machine: with its program for a primary, blank for a standby."""
    address = card(settings)
    return RiscvGuest(
        _image(settings["program"]) if settings.boots else None,
        clock=MonotonicClock(),
        memory_bytes=settings["memory"],
        mac=mac_bytes(address) if address is not None else None,
        disk=settings["disk"] or 0,
        entropy=os.urandom if settings["entropy"] else None,
        command_line=settings["append"],
    )


def _image(program: str) -> bytes:
    return read_image(program, SUMMARIES, read_program)


def _check_program(settings: HostSettings) -> None:
    if settings.boots:  # a standby gets it from the active
        parse_elf(_image(settings["program"]), ram_base=RAM_BASE, ram_bytes=settings["memory"])


def _check_disk(settings: HostSettings) -> None:
    disk_bytes(settings)
    if settings.boots and settings["disk"] is None and settings["program"] in NEED_DISK:
        raise ConfigError(f"program {settings['program']} needs a disk: give it a raw image, or choose another program")


RISCV: Final = Kind(
    name="riscv",
    settings=(
        MEMORY,
        replace(NIC, check=lambda settings: check_network(settings, NEED_NETWORK)),
        program_setting("the built-in machine", SUMMARIES, _check_program),
        replace(MEMORY_DISK, check=_check_disk),
        Setting(
            name="append",
            default="",
            metavar="TEXT",
            help="Boot arguments for the program, in the device tree.",
        ),
        ENTROPY,
    ),
    can=frozenset(Capability),
    make=_make,
    memory_bytes=lambda settings: settings["memory"],
    shadow_bytes=lambda settings: settings["memory"] + disk_data_bytes(settings),
    check_tools=lambda _: None,
)
