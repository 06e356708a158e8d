"""Guests of kind riscv: the built-in machine."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from ftvm.cli.hostparts import card
from ftvm.cli.hostsettings import DISK, MEMORY, NIC, disk_bytes
from ftvm.cli.settings import HostSettings, Kind, Setting, in_folder
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
    """Return the program that the machine runs; raises ConfigError if it cannot be read."""
    if program in SUMMARIES:
        return read_program(program)
    try:
        return Path(program).read_bytes()
    except OSError as wrong:
        names = ", ".join(SUMMARIES)
        raise ConfigError(f"{program}: {wrong.strerror}; built-in programs are {names}") from wrong


def _check_program(settings: HostSettings) -> None:
    if settings.boots:  # a standby gets it from the active
        parse_elf(_image(settings["program"]), ram_base=RAM_BASE, ram_bytes=settings["memory"])


def _check_nic(settings: HostSettings) -> None:
    if settings.boots and settings["nic"] is None and settings["program"] in NEED_NETWORK:
        raise ConfigError(
            f"program {settings['program']} needs a network card: give it a cable, udp:LOCALPORT:REMOTEPORT or "
            "tap:NAME, or choose another program"
        )


def _check_disk(settings: HostSettings) -> None:
    disk_bytes(settings)
    if settings.boots and settings["disk"] is None and settings["program"] in NEED_DISK:
        raise ConfigError(f"program {settings['program']} needs a disk: give it a raw image, or choose another program")


def _locate_program(program: str, folder: Path) -> str:
    return program if program in SUMMARIES else in_folder(program, folder)


RISCV: Final = Kind(
    name="riscv",
    settings=(
        MEMORY,
        replace(NIC, check=_check_nic),
        Setting(
            name="program",
            default="kv",
            metavar="NAME|FILE",
            check=_check_program,
            locate=_locate_program,
            help=f"What the built-in machine runs: an ELF file, or one of {', '.join(SUMMARIES)}.",
        ),
        replace(
            DISK,
            check=_check_disk,
            help="A virtio disk: a raw image, equally large on both hosts. It is read at the start and never written: "
            "the disk lives in memory.",
        ),
        Setting(
            name="append",
            default="",
            metavar="TEXT",
            help="Boot arguments for the program, in the device tree.",
        ),
        Setting(
            name="entropy",
            written="flag",
            default=True,
            help="Whether the machine has an entropy device, fed by this host.",
        ),
    ),
    can=frozenset(Capability),
    make=_make,
    memory_bytes=lambda settings: settings["memory"] + disk_bytes(settings),
    check_tools=lambda _: None,
)
