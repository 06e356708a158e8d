"""`ftvm keygen NAME`: make the key pair of one host."""

import json

import click

from ftvm.errors import ConfigError
from ftvm.transport.keys import write_keypair

__all__ = ["keygen"]


@click.command()
@click.argument("name")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of text.")
def keygen(name: str, is_json: bool) -> None:
    """Write a new secret key to NAME.key and its public key to NAME.pub.

    Keep NAME.key on this host, readable by its owner only; copy NAME.pub to the peers, which name it among the keys
    that they allow. Existing files are never overwritten. A .key or .pub at the end of NAME is taken off.
    """
    name = name.removesuffix(".key").removesuffix(".pub")
    if name.rpartition("/")[2] in ("", ".", ".."):
        raise ConfigError(f"{name!r} is not a file name: write one such as host-a, or keys/host-a")
    public = write_keypair(name)
    if is_json:
        click.echo(json.dumps({"public": public, "public_file": f"{name}.pub", "secret_file": f"{name}.key"}))
        return
    click.echo(f"wrote {name}.key (secret: keep it here) and {name}.pub (copy it to the peers)")
