"""The `ftvm` command: one module per subcommand, loaded when it is called."""

from importlib import import_module
from typing import Final

import click

from ftvm.cli.exits import run_command
from ftvm.cli.streams import fill_closed

__all__ = ["main"]

_COMMANDS: Final = {
    "chaos": "Break a real pair in every way there is, and check that nothing was lost.",
    "check": "Check whether a host could start here, and say how to correct what is wrong.",
    "console": "Type at a guest's console, and read it.",
    "ctl": "Tell a running host what to do: another engine, switch over, leave.",
    "demo": "A live failover on this machine: kill the primary, the guest lives on.",
    "disk": "Say what the images of disks are, and which is the newest.",
    "history": "Look into what was recorded of a guest.",
    "init": "Create or vacate the arbiter's record of a guest.",
    "keygen": "Make the key pair of one host.",
    "machine": "Run programs on the built-in RISC-V machine.",
    "run": "Run a guest on this host and protect it.",
    "setup": "Write the guest files and keys for all hosts of a guest, and check this one.",
    "simulate": "Test the protocol in simulated histories full of faults.",
    "standby": "Stand by for a guest, and take over when its host dies.",
    "status": "Show the state of the guests on this machine.",
    "stop": "End a guest for good.",
    "top": "Watch the guests on this machine.",
    "version": "Print the version.",
    "vmm": "Check your own monitor against the hand-over protocol.",
}
_OLD_NAMES: Final = ("primary", "qemu")
"""Commands of 0.1 that say what they are called now; not listed."""


class _Commands(click.Group):
    """Imports a subcommand's module only when it is needed: `ftvm keygen` must not wait for rich or zmq."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in (*_COMMANDS, *_OLD_NAMES):
            return None
        command = getattr(import_module(f"ftvm.cli.{cmd_name}"), cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"ftvm.cli.{cmd_name} holds no command of that name")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ftvm", message="ftvm %(version)s", help="Show the version and exit.")
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
def ftvm(debug: bool) -> None:
    """Keep a virtual machine running when its host dies.

    Exit statuses: 0 done, 1 failed, 2 wrong usage or configuration, 3 the peer broke the protocol, 4 a bug in ftvm,
    130 stopped by a signal where that is not the normal end.
    """
    del debug  # run_command looks for it itself, so that it also covers errors of parsing


def main() -> None:
    """Run the command line."""
    fill_closed()
    run_command(lambda: ftvm(prog_name="ftvm", standalone_mode=False))
