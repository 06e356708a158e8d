"""`ftvm qemu`: protect a stock QEMU; stand by for one."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import click

from ftvm.cli.configoption import check_word, word_option
from ftvm.cli.hostarguments import HostArguments
from ftvm.cli.hostoptions import any_host_options
from ftvm.cli.hostrun import run_primary, run_standby
from ftvm.cli.values import parse_memory
from ftvm.errors import ConfigError
from ftvm.guests.imagefile import image_bytes
from ftvm.interfaces import Guest

__all__ = ["qemu", "require_qmp"]

F = TypeVar("F", bound=Callable[..., Any])

_TRACKERS: Final = ("auto", "userfault", "compare")


@click.group()
def qemu() -> None:
    """Protect a virtual machine that a stock QEMU runs.

    \b
    Both hosts need the same QEMU, the same memory and the same arguments behind the --. What ftvm adds: memory that it
    shares with QEMU, its monitor, a virtio network card (--nic), a serial console, and on a standby the waiting.
    Two hosts, both reaching /shared (host-b is the standby):
      ftvm qemu run --memory 512M --listen tcp://0.0.0.0:7777 --peer tcp://host-b:7777 --key a.key --allow b.pub \\
          --arbiter file:///shared/vm1 --create --nic udp:9001:9000 -- -kernel vmlinuz -initrd ird.gz
      ftvm qemu standby --memory 512M --listen tcp://0.0.0.0:7777 --peer tcp://host-a:7777 --key b.key --allow a.pub \\
          --arbiter file:///shared/vm1 --nic udp:9001:9000 -- -kernel vmlinuz -initrd ird.gz
    """


def _qemu_options(command: F) -> F:
    for option in reversed(_OPTIONS):
        command = option(command)
    return any_host_options(command)


_OPTIONS: Final = (
    click.option("--qemu", default="qemu-system-x86_64", show_default=True, help="The QEMU to run."),
    click.option("--accel", default="tcg", show_default=True, help="How QEMU runs the guest; only tcg is tested."),
    click.option(
        "--disk",
        metavar="FILE",
        help="A virtio disk: a raw image of this host's own, equally large on both hosts. A standby's is overwritten.",
    ),
    word_option("--tracker", _TRACKERS, explained="How written pages are found."),
    click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--] [QEMU ARGUMENTS]..."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuArguments(HostArguments):
    """The options of a host that runs QEMU."""

    qemu: str
    accel: str
    disk: str | None
    tracker: str
    arguments: tuple[str, ...]

    def more_checks(self) -> Mapping[str, Callable[[HostArguments], object]]:
        """Return what judges the settings of QEMU; and its memory, which has coarser steps than others' has."""
        return {
            "memory": lambda _: _check_machine(memory_bytes=parse_memory(self.memory)),
            "disk": lambda _: _check_machine(disk_bytes=self.disk_bytes()),
            "tracker": lambda _: check_word("tracker", self.tracker, _TRACKERS),
            "arguments": lambda _: _check_machine(arguments=self.arguments),
        }

    def disk_bytes(self) -> int:
        """Return the size of the disk's image, 0 if there is none; raises ConfigError if it cannot be a disk."""
        return 0 if self.disk is None else image_bytes(self.disk)

    def check_tools(self) -> None:
        """Raise ConfigError unless what runs the guest, and what speaks to it, is installed."""
        require_qmp()
        if shutil.which(self.qemu) is None:
            raise ConfigError(f"--qemu {self.qemu}: there is no such program; Debian has it in qemu-system-x86")

    def guest(self, *, boots: bool) -> Guest:
        """Start QEMU, paused; it waits for a state unless it `boots`."""
        require_qmp()
        from ftvm.guests.qemu import QemuGuest, QemuMachine

        machine = QemuMachine(
            memory_bytes=parse_memory(self.memory),
            arguments=self.arguments,
            mac=self.card(),
            disk_bytes=self.disk_bytes(),
            accel=self.accel,
            program=self.qemu,
        )
        return QemuGuest(machine, boots=boots, disk=self.disk, tracker=self.tracker)


@qemu.command()
@_qemu_options
@click.option("--create", is_flag=True, help="Create the arbiter's record if there is none (else run `ftvm init`).")
def run(create: bool, **given: Any) -> None:
    """Run a guest under QEMU on this host and protect it.

    As `ftvm primary` does the built-in machine; QEMU's own arguments stand behind the --.
    """
    run_primary(QemuArguments(**given), create=create)


@qemu.command(short_help="Stand by for a guest under QEMU.")
@_qemu_options
def standby(**given: Any) -> None:
    """Stand by for a guest under QEMU, and take over when its host dies.

    As `ftvm standby` does for the built-in machine; QEMU's own arguments stand behind the --, as on the primary.
    """
    run_standby(QemuArguments(**given))


def require_qmp() -> None:
    """Raise ConfigError unless the package is installed that speaks to QEMU's monitor: an extra of ftvm."""
    try:
        import_module("qemu.qmp")
    except ImportError as wrong:
        raise ConfigError("a QEMU guest needs the package qemu.qmp: pip install 'ftvm[qemu]'") from wrong


def _check_machine(**given: Any) -> None:
    """Raise ConfigError unless a machine can be such, for all that is known before QEMU is started."""
    if find_spec("qemu") is None or find_spec("qemu.qmp") is None:
        return  # told of by `require_qmp`
    from ftvm.guests.qemu import QemuMachine

    QemuMachine(**{"memory_bytes": 1 << 20, **given})
