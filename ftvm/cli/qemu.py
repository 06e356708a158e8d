"""`ftvm qemu`: protect a stock QEMU; stand by for one."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from ftvm.cli.hostoptions import HostArguments, any_host_options, parse_memory
from ftvm.cli.hostrun import make_report, run_until_stopped
from ftvm.errors import ConfigError
from ftvm.runtime.protection import Standby, protect

__all__ = ["qemu"]

F = TypeVar("F", bound=Callable[..., Any])


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
    click.option("--qemu", "program", default="qemu-system-x86_64", show_default=True, help="The QEMU to run."),
    click.option("--accel", default="tcg", show_default=True, help="How QEMU runs the guest; only tcg is tested."),
    click.option(
        "--tracker",
        type=click.Choice(["auto", "userfault", "compare"]),
        default="auto",
        show_default=True,
        help="How written pages are found.",
    ),
    click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[--] [QEMU ARGUMENTS]..."),
)


@qemu.command()
@_qemu_options
@click.option("--create", is_flag=True, help="Create the arbiter's record if there is none (else run `ftvm init`).")
def run(create: bool, **given: Any) -> None:
    """Run a guest under QEMU on this host and protect it.

    As `ftvm primary` does the built-in machine; QEMU's own arguments stand behind the --.
    """
    host, guest_of = _take(given)
    options = host.options()
    report = make_report(host.is_json)
    with protect(
        guest_of(boots=True),
        listen=host.listen,
        peers=host.peer_endpoints(),
        arbiter=host.arbiter,
        create=create,
        **options,
    ) as protection:
        run_until_stopped(protection, report)


@qemu.command()
@_qemu_options
def standby(**given: Any) -> None:
    """Stand by for a guest under QEMU, and take over when its host dies.

    As `ftvm standby` does for the built-in machine; QEMU's own arguments stand behind the --, as on the primary.
    """
    host, guest_of = _take(given)
    options = host.options()
    report = make_report(host.is_json)
    with Standby(
        guest_of(boots=False), listen=host.listen, peers=host.peer_endpoints(), arbiter=host.arbiter, **options
    ) as waiting:
        run_until_stopped(waiting, report)


def _take(given: dict[str, Any]) -> tuple[HostArguments, Callable[..., Any]]:
    """Split what was given into the host's options and a way to make the guest."""
    names = ("program", "accel", "tracker", "arguments")
    own = {name: given.pop(name) for name in names}
    host = HostArguments(**given)
    machine_type, guest_type = _adapter()
    machine = machine_type(
        memory_bytes=parse_memory(host.memory),
        arguments=own["arguments"],
        mac=host.mac if host.nic is not None else None,
        accel=own["accel"],
        program=own["program"],
    )
    return host, lambda *, boots: guest_type(machine, boots=boots, tracker=own["tracker"])


def _adapter() -> tuple[Any, Any]:
    try:
        from ftvm.guests.qemu import QemuGuest, QemuMachine
    except ImportError as wrong:
        raise ConfigError(f"`ftvm qemu` needs the package {wrong.name}: pip install 'ftvm[qemu]'") from wrong
    return QemuMachine, QemuGuest
