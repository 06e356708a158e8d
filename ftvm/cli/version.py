"""`ftvm version`: what is installed."""

import json
import platform
from importlib.metadata import version as version_of

import click

from ftvm.encode.versions import SPOKEN

__all__ = ["version"]


@click.command()
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of text.")
def version(is_json: bool) -> None:
    """Print the version of ftvm, those of its protocol that it speaks, and that of Python.

    Two hosts work together if they have a version of the protocol in common.
    """
    facts = {
        "ftvm": version_of("ftvm"),
        "protocol": SPOKEN.highest,
        "protocol_lowest": SPOKEN.lowest,
        "python": platform.python_version(),
    }
    click.echo(json.dumps(facts) if is_json else f"ftvm {facts['ftvm']} protocol {SPOKEN} python {facts['python']}")
