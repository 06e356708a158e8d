"""`ftvm primary`: run a guest on this host and protect it."""

from typing import Any

import click

from ftvm.cli.hostarguments import HostArguments
from ftvm.cli.hostoptions import host_options
from ftvm.cli.hostrun import run_primary

__all__ = ["primary"]


@click.command()
@host_options
@click.option("--create", is_flag=True, help="Create the arbiter's record if there is none (else run `ftvm init`).")
def primary(create: bool, **shared: Any) -> None:
    """Run a guest on this host and protect it.

    The guest starts as soon as the arbiter's record names this host. A standby joins by itself; from then on no output
    leaves before the state behind it is safe there. Ctrl-C, SIGTERM or SIGHUP stops the guest here; the standby takes
    over.

    \b
    Two hosts by hand, both reaching /shared (host-b is the standby):
      ftvm keygen a                       # on host a; copy a.pub to host b, and b.pub here
      ftvm primary --listen tcp://0.0.0.0:7777 --peer tcp://host-b:7777 --key a.key --allow b.pub \\
          --arbiter file:///shared/vm1 --program kv --nic udp:9001:9000 --create
    """
    run_primary(HostArguments(**shared), create=create)
