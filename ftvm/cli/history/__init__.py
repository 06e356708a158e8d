"""`ftvm history`: look into what was recorded of a guest."""

import click

from ftvm.cli.history.epochs import EPOCH_COMMANDS
from ftvm.cli.history.timetravel import cover_command, debug_command

__all__ = ["history"]


@click.group()
def history() -> None:
    """Look into what was recorded of a guest."""


for command in (*EPOCH_COMMANDS, debug_command, cover_command):
    history.add_command(command)
