"""The kinds of guests that the commands can run: a row for each. A kind is a module with its settings and a `make`.

A new kind (another hypervisor) is one more module here and one more row.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ftvm.cli.hostsettings import SHARED
from ftvm.cli.kinds.kvm import KVM
from ftvm.cli.kinds.qemu import QEMU
from ftvm.cli.kinds.riscv import RISCV
from ftvm.cli.kinds.vmm import VMM
from ftvm.cli.settings import DEFAULT_KIND, HostSettings, Kind, Setting, read_settings
from ftvm.service.guestfile import GuestFile, read_guest_file

__all__ = ["KINDS", "all_settings", "read_host"]

KINDS: Final[Mapping[str, Kind]] = {kind.name: kind for kind in (RISCV, QEMU, KVM, VMM)}

_SHARED: Final = (
    Setting(
        name="kind",
        default=DEFAULT_KIND,
        words=tuple(KINDS),
        help="What runs the guest: the built-in RISC-V machine, a stock QEMU, our monitor under KVM, or a monitor of "
        "your own.",
    ),
    *SHARED,
)


def all_settings() -> dict[str, list[tuple[str, Setting]]]:
    """Return each setting's rows, by name: beside each the kind that it is of, "" for one of all kinds."""
    found: dict[str, list[tuple[str, Setting]]] = {row.name: [("", row)] for row in _SHARED}
    for kind in KINDS.values():
        for row in kind.settings:
            found.setdefault(row.name, []).append((kind.name, row))
    return found


def read_host(
    path: Path | None, options: Mapping[str, Any], *, boots: bool, is_json: bool = False, default_kind: str = ""
) -> HostSettings:
    """Return the settings of a host from its guest file, if there is one, and what the command line says.

    Mistakes in them are in `problems`. Raises ConfigError if the file cannot be read, or is not TOML.
    """
    file: GuestFile | None = read_guest_file(path) if path is not None else None
    return read_settings(
        _SHARED,
        KINDS,
        file=file,
        options=options,
        boots=boots,
        is_json=is_json,
        default_kind=default_kind or DEFAULT_KIND,
    )
