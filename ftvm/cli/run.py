"""`ftvm run`: run a guest on this host and protect it."""

from typing import Final

import click

from ftvm.cli.hostcommand import host_command

__all__ = ["RUN_HELP", "run"]

RUN_HELP: Final = """Run a guest on this host and protect it.

FILE is a guest file: TOML whose keys are the options below, without dashes. Relative paths in it count from its folder.
Options override it. Words after -- are arguments for QEMU, and override its `arguments`.

The guest starts as soon as the arbiter's record names this host. A standby joins by itself; from then on no output
leaves before the state behind it is safe there. The guest's console goes to standard output, and takes no input.
Ctrl-C, SIGTERM or SIGHUP stops this host, and the standby goes on with the guest.

\b
Two hosts by hand, both reaching /shared (host-b is the standby):
  ftvm keygen a                       # on host a; copy a.pub to host b, and b.pub here
  ftvm run --listen tcp://0.0.0.0:7777 --peer tcp://host-b:7777 --key a.key --allow b.pub \\
      --arbiter file:///shared/vm1 --program kv --nic udp:9001:9000 --create
  ftvm run --kind qemu --memory 512M --listen tcp://0.0.0.0:7777 --peer tcp://host-b:7777 --key a.key \\
      --allow b.pub --arbiter file:///shared/vm2 --create -- -kernel vmlinuz -initrd ird.gz
"""

run: Final[click.Command] = host_command("run", boots=True, explained=RUN_HELP)
