"""`ftvm history`: look into what was recorded of a guest."""

import click

from ftvm.cli.timetravel import cover_command, debug_command

__all__ = ["history"]


@click.group()
def history() -> None:
    """Look into what was recorded of a guest."""


history.add_command(debug_command)
history.add_command(cover_command)
