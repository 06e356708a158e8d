"""`ftvm qemu run` and `ftvm qemu standby`: what `ftvm run` and `ftvm standby` do for `kind = "qemu"` were called so
before 0.2."""

import click

from ftvm.cli.hostcommand import host_command
from ftvm.cli.run import RUN_HELP
from ftvm.cli.standby import STANDBY_HELP

__all__ = ["qemu"]


@click.group()
def qemu() -> None:
    """Protect a virtual machine that a stock QEMU runs: the old names."""


qemu.add_command(host_command("run", boots=True, explained=RUN_HELP, default_kind="qemu", old="ftvm run --kind qemu"))
qemu.add_command(
    host_command("standby", boots=False, explained=STANDBY_HELP, default_kind="qemu", old="ftvm standby --kind qemu")
)
