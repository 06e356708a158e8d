"""`ftvm standby`: stand by for a guest, take over when its host dies, protect it from then on."""

from typing import Any

import click

from ftvm.cli.hostarguments import HostArguments
from ftvm.cli.hostoptions import host_options
from ftvm.cli.hostrun import run_standby

__all__ = ["standby"]


@click.command()
@host_options
def standby(**shared: Any) -> None:
    """Stand by for a guest, and take over when its host dies.

    Joins the active host among the peers, receives a first copy while the guest runs there, and follows it. When the
    active falls silent, asks the arbiter; if it is given the guest, runs it here and protects it as soon as another
    standby joins. Memory, network address and engine must be given as on the primary. Ctrl-C, SIGTERM or SIGHUP stops
    it.

    \b
    On host b, with host a as the primary:
      ftvm standby --listen tcp://0.0.0.0:7777 --peer tcp://host-a:7777 --key b.key --allow a.pub \\
          --arbiter file:///shared/vm1 --nic udp:9001:9000
    """
    run_standby(HostArguments(**shared))
