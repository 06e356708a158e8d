"""`ftvm primary`: what `ftvm run` was called before 0.2."""

from typing import Final

import click

from ftvm.cli.hostcommand import host_command
from ftvm.cli.run import RUN_HELP

__all__ = ["primary"]

primary: Final[click.Command] = host_command("primary", boots=True, explained=RUN_HELP, old="ftvm run")
