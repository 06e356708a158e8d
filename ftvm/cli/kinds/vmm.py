"""Guests of kind vmm: anybody's monitor, by the hand-over protocol."""

from dataclasses import replace
from typing import Final
from urllib.parse import quote

import click

from ftvm.cli.hostsettings import MEMORY, TRACKER
from ftvm.cli.settings import HostSettings, Kind, Setting, in_folder
from ftvm.guests.vmm import MonitorDoor, VmmGuest
from ftvm.interfaces import Capability, Guest
from ftvm.service.socketfiles import control_folder, prepare_folder

__all__ = ["VMM"]


def _make(settings: HostSettings) -> Guest:
    """Wait for the monitor: one that puts its program into memory for a primary, a blank one for a standby."""
    with MonitorDoor(_path(settings)) as door:
        click.echo(f"ftvm: waiting for a monitor at {door.path}", err=True)
        return VmmGuest(
            door,
            boots=settings.boots,
            tracker=settings["tracker"],
            memory_bytes_max=settings["memory"],
        )


def _path(settings: HostSettings) -> str:
    if settings["socket"] is not None:
        return str(settings["socket"])
    folder = control_folder()
    prepare_folder(folder)
    return str(folder / f"{quote(settings['guest'], safe='')}.monitor")


def _check_tools(settings: HostSettings) -> str:
    path = _path(settings)
    MonitorDoor(path).close()
    return f"a monitor can connect to {path}"


VMM: Final = Kind(
    name="vmm",
    settings=(
        replace(MEMORY, default="512M", help="The most memory that the monitor may hand over, e.g. 64M or 1G."),
        Setting(
            name="socket",
            metavar="PATH",
            locate=in_folder,
            help="Where the monitor connects; made by this host for its own user.  [default: in your runtime folder]",
        ),
        replace(TRACKER, words=("auto", "compare")),
    ),
    can=frozenset({Capability.EXACT_OUTPUT_STOP}),
    make=_make,
    memory_bytes=lambda settings: settings["memory"],
    shadow_bytes=lambda settings: settings["memory"],
    check_tools=_check_tools,
)
