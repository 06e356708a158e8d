"""The golden files: one for each version of the wire, and one for what is kept outside of it."""

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Final

from .cases import FOLDER, STORED, WIRE, Case

__all__ = ["ALL", "path_of", "read_golden", "write_golden"]

ALL: Final[dict[str, dict[str, Case]]] = {
    **{f"wire-{version}": cases for version, cases in WIRE.items()},
    "stored-1": STORED,
}
"""The cases of each file."""

_RUN_MIN: Final = 12
_RUN: Final = re.compile(r"([0-9a-f]{2})\*([0-9]+)")


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def shown(content: bytes) -> str:
    """Return bytes as hexadecimal digits; a long run of one byte as that byte and how often it comes: 00*4096."""
    parts = []
    for byte, run in groupby(content):
        count = len(list(run))
        parts.append(f" {byte:02x}*{count} " if count >= _RUN_MIN else f"{byte:02x}" * count)
    return " ".join("".join(parts).split())


def unshown(text: str) -> bytes:
    """Return the bytes that `shown` was given."""
    parts = (_RUN.fullmatch(part) for part in text.split())
    return b"".join(
        bytes.fromhex(found[1]) * int(found[2]) if found else bytes.fromhex(part)
        for part, found in zip(text.split(), parts, strict=True)
    )


def read_golden(name: str) -> dict[str, list[bytes]]:
    """Return the pieces of each golden of a file."""
    kept: dict[str, list[str]] = json.loads(path_of(name).read_text())
    return {case: [unshown(piece) for piece in pieces] for case, pieces in kept.items()}


def write_golden(name: str) -> None:
    """Write a file again. What depends on a library's release stays as it is, where it is there."""
    kept = read_golden(name) if path_of(name).exists() else {}
    written = {
        case: kept.get(case) if case in kept and not how.is_stable else how.write() for case, how in ALL[name].items()
    }
    told = {case: [shown(piece) for piece in pieces or []] for case, pieces in written.items()}
    path_of(name).write_text(json.dumps(told, indent=1) + "\n")
