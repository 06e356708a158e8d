"""`ftvm disk`: what the images of disks say of themselves, and which of them is the newest."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from ftvm.errors import ConfigError
from ftvm.guests.disk.label import Label, is_unmoved, newer, read_label

__all__ = ["disk", "newest_of", "read_labels"]

_SAVED: Final = ".json"
_UNMOVED: Final = "; not all of it is on the device yet: the next host that opens it moves the rest first"


@click.group()
def disk() -> None:
    """Look at the images of guests' disks."""


@disk.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--json", "is_json", is_flag=True, help="Print JSON, one object an image, one a line.")
def show(images: tuple[str, ...], is_json: bool) -> None:
    """Say what each IMAGE says of itself, and of several, which is the newest.

    In the place of an image of another host stands a FILE.json that was written there by `ftvm disk show IMAGE --json`.
    """
    labels = read_labels(images)
    if is_json:
        for path, label in labels.items():
            click.echo(json.dumps({"path": path, **asdict(label or Label(image=""))}))
        return
    for path, label in labels.items():
        told = label or "says nothing of itself: ftvm has not used it yet"
        click.echo(f"{path}: {told}{_UNMOVED if is_unmoved(Path(path)) else ''}")
    if len(labels) > 1:
        click.echo(newest_of(labels))


def read_labels(images: Iterable[str]) -> Mapping[str, Label | None]:
    """Return what each image says, None for one without a label. Raises ConfigError if there is no such image."""
    labels: dict[str, Label | None] = {}
    for path in images:
        try:
            labels[path] = _saved(Path(path)) if path.endswith(_SAVED) else read_label(Path(path))
        except OSError as wrong:
            raise ConfigError(f"the image {path} cannot be read: {wrong.strerror}") from wrong
    return labels


def newest_of(labels: Mapping[str, Label | None]) -> str:
    """Say which image is the newest."""
    for path, label in labels.items():
        others = [other for name, other in labels.items() if name != path]
        if label is not None and all(other is not None and newer(label, other) == 0 for other in others):
            return f"newest: {path}"
    return "newest: not known; none of them says that it goes on from all others: look at them before you start one"


def _saved(path: Path) -> Label | None:
    try:
        fields = json.loads(path.read_bytes())
        fields.pop("path")
        parents = tuple((str(lineage), int(generation)) for lineage, generation in fields.pop("parents"))
        label = Label(**fields, parents=parents)
    except (ValueError, TypeError, KeyError, AttributeError) as wrong:
        raise ConfigError(f"{path} is not what `ftvm disk show IMAGE --json` prints of one image") from wrong
    return label if label.image else None
