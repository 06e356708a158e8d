"""`ftvm version`: what is installed."""

import json
import platform
from importlib.metadata import version as version_of

import click

from ftvm.config import PROTOCOL_VERSION

__all__ = ["version"]


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of text.")
def version(is_json: bool) -> None:
    """Print the versions of ftvm, of its protocol and of Python."""
    facts = {"ftvm": version_of("ftvm"), "protocol": PROTOCOL_VERSION, "python": platform.python_version()}
    click.echo(json.dumps(facts) if is_json else " ".join(f"{name} {value}" for name, value in facts.items()))
