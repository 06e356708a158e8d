"""Settings of our machines: which program runs (one that comes with ftvm, or a file), and their devices."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from ftvm.cli.hostsettings import DISK
from ftvm.cli.settings import HostSettings, Setting, in_folder
from ftvm.errors import ConfigError

__all__ = ["ENTROPY", "MEMORY_DISK", "check_network", "program_setting", "read_image"]

DEFAULT: Final = "kv"

ENTROPY: Final = Setting(
    name="entropy",
    written="flag",
    default=True,
    help="Whether the machine has an entropy device, fed by this host.",
)
MEMORY_DISK: Final = replace(
    DISK,
    help="A virtio disk: a raw image or block device, equally large on both hosts, which is kept at the last "
    "checkpoint, and at the guest's end. A standby's is overwritten.",
)


def read_image(program: str, summaries: Mapping[str, str], read: Callable[[str], bytes]) -> bytes:
    """Return the program that a machine runs; raises ConfigError if it cannot be read."""
    if program in summaries:
        return read(program)
    try:
        return Path(program).read_bytes()
    except OSError as wrong:
        names = ", ".join(summaries)
        raise ConfigError(f"{program}: {wrong.strerror}; built-in programs are {names}") from wrong


def check_network(settings: HostSettings, need: frozenset[str]) -> None:
    """Raise ConfigError if the program needs a network card, and the machine has none."""
    if settings.boots and settings["nic"] is None and settings["program"] in need:
        raise ConfigError(
            f"program {settings['program']} needs a network card: give it a cable, udp:LOCALPORT:REMOTEPORT or "
            "tap:NAME, or choose another program"
        )


def program_setting(machine: str, summaries: Mapping[str, str], check: Callable[[HostSettings], object]) -> Setting:
    """Return the row of the setting; `machine` is what runs the program, for people."""
    return Setting(
        name="program",
        default=DEFAULT,
        metavar="NAME|FILE",
        check=check,
        locate=lambda program, folder: program if program in summaries else in_folder(program, folder),
        help=f"What {machine} runs: an ELF file, or one of {', '.join(summaries)}.",
    )
