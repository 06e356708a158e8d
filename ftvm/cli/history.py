"""`ftvm history`: look into what was recorded of a guest."""

import click

from ftvm.cli.past import PAST_COMMANDS
from ftvm.cli.timetravel import cover_command, debug_command

__all__ = ["history"]


@click.group()
def history() -> None:
    """Look into what was recorded of a guest."""


for command in (*PAST_COMMANDS, debug_command, cover_command):
    history.add_command(command)
