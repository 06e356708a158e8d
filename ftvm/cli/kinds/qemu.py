"""Guests of kind qemu: a stock QEMU."""

import os
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ftvm.cli.hostparts import PUMP, macs, pumped_cables, pumped_cards
from ftvm.cli.hostsettings import DISK, MAC, MEMORY, NIC, TRACKER, disk_data_bytes, disk_sizes
from ftvm.cli.settings import HostSettings, Kind, Setting, in_folder
from ftvm.errors import ConfigError
from ftvm.guests.cards.ends import check_cable, is_offloading
from ftvm.guests.kvm.machine import DEVICE, check_device
from ftvm.interfaces import Guest

__all__ = ["QEMU"]


def _make(settings: HostSettings) -> Guest:
    """Start QEMU, paused; it waits for a state unless it boots."""
    from ftvm.guests.qemu import QemuGuest, QemuMachine

    machine = QemuMachine(
        memory_bytes=settings["memory"],
        arguments=tuple(settings["arguments"]),
        mac=macs(settings),
        disk_bytes=disk_sizes(settings),
        accel=settings["accel"],
        program=settings["qemu"],
        folder=None if settings.folder is None else str(settings.folder),
        is_pumped=_is_pumped(settings),
        offloads=any(map(is_offloading, pumped_cables(settings))),
    )
    with ExitStack() as undo:
        cards = pumped_cards(settings)
        for card in cards:
            undo.callback(card.close)
        guest = QemuGuest(
            machine, boots=settings.boots, disk=settings["disk"], cards=cards, tracker=settings["tracker"]
        )
        undo.pop_all()
    return guest


def _locate_images(images: list[str], folder: Path) -> list[str]:
    return [in_folder(image, folder) for image in images]


def _check_tools(settings: HostSettings) -> str | None:
    if shutil.which(settings["qemu"]) is None:
        raise ConfigError(f"{settings['qemu']}: no such program; on Debian it is in the package qemu-system-x86")
    return f"{DEVICE} works: {check_device()}" if settings["accel"] == "kvm" else None


def _check_machine(**given: Any) -> None:
    """Raise ConfigError if the machine is impossible, as far as that is known before QEMU starts."""
    from ftvm.guests.qemu import QemuMachine

    QemuMachine(**{"memory_bytes": 1 << 20, **given})


def _read_nics(nics: list[str]) -> list[str]:
    for nic in nics:
        if nic.startswith(PUMP):
            check_cable(nic.removeprefix(PUMP))
        else:
            NIC.parse(nic)
        if nics.count(nic) > 1:
            raise ConfigError(f"{nic} is there {nics.count(nic)} times: each card needs its own interface")
    return nics


def _is_pumped(settings: HostSettings) -> bool:
    return bool(settings["nic"]) and all(nic.startswith(PUMP) for nic in settings["nic"])


def _check_cards(settings: HostSettings) -> None:
    if len(set(map(is_offloading, pumped_cables(settings)))) > 1:
        raise ConfigError("pump:NAME beside pumps of other kinds: all cards of a guest offload, or none")
    _check_machine(mac=macs(settings), is_pumped=_is_pumped(settings))


def _read_macs(addresses: list[str]) -> list[str]:
    for address in addresses:
        MAC.parse(address)
    return addresses


def _check_macs(settings: HostSettings) -> None:
    MAC.check(settings)
    if len(settings["mac"]) > len(settings["nic"]):
        raise ConfigError(f"more addresses ({len(settings['mac'])}) than cards ({len(settings['nic'])}, see nic)")


def _program(written: str) -> str:
    """Return QEMU's absolute path, because QEMU runs in another folder; a plain name stays, to be searched in PATH."""
    return os.path.abspath(written) if "/" in written else written


QEMU: Final = Kind(
    name="qemu",
    settings=(
        replace(MEMORY, default="512M", check=lambda settings: _check_machine(memory_bytes=settings["memory"])),
        replace(NIC, written="one or more", parse=_read_nics, check=_check_cards),
        replace(MAC, written="one or more", parse=_read_macs, check=_check_macs),
        replace(
            DISK,
            written="one or more",
            locate=_locate_images,
            help="A virtio disk: a raw image or block device of this host's own, equally large on both. A standby's is "
            "overwritten. May be repeated.",
        ),
        Setting(
            name="qemu",
            default="qemu-system-x86_64",
            metavar="PROGRAM",
            parse=_program,
            locate=lambda program, folder: in_folder(program, folder) if "/" in program else program,
            help="The QEMU to run.",
        ),
        Setting(
            name="accel",
            default="tcg",
            metavar="NAME",
            help="How QEMU runs the guest: tcg (interpreted) or kvm (on the processor).",
        ),
        TRACKER,
        Setting(
            name="arguments",
            written="texts",
            check=lambda settings: _check_machine(arguments=tuple(settings["arguments"])),
            has_option=False,
            help="QEMU's own arguments, the same on both hosts.",
        ),
    ),
    can=frozenset(),
    make=_make,
    memory_bytes=lambda settings: settings["memory"],
    shadow_bytes=lambda settings: settings["memory"] + disk_data_bytes(settings),
    check_tools=_check_tools,
)
