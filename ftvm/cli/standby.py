"""`ftvm standby`: stand by for a guest, take over when its host dies, protect it from then on."""

from typing import Final

import click

from ftvm.cli.hostcommand import host_command

__all__ = ["STANDBY_HELP", "standby"]

STANDBY_HELP: Final = """Stand by for a guest, and take over when its host dies.

FILE is a guest file: TOML whose keys are the options below, without dashes. Relative paths in it count from its folder.
Options override it. Words after -- are arguments for QEMU, and override its `arguments`.

Joins the active host among the peers, receives a first copy while the guest runs there, and follows it. If the active
falls silent, it asks the arbiter. If the arbiter gives it the guest, it runs the guest and protects it as soon as
another standby joins. Kind, memory, disk size, network address and QEMU's arguments must be as on the active. Ctrl-C,
SIGTERM or SIGHUP stops it.

\b
On host b, with the guest on host a:
  ftvm standby --listen tcp://0.0.0.0:7777 --peer tcp://host-a:7777 --key b.key --allow a.pub \\
      --arbiter file:///shared/vm1 --nic udp:9001:9000
"""

standby: Final[click.Command] = host_command("standby", boots=False, explained=STANDBY_HELP)
