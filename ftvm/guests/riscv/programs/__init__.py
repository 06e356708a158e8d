"""The guest programs that come with ftvm: bare-metal RV64IMAC ELF files, built from `examples/guests`.

Promises: what `SUMMARIES` names can be read and opened, also from a zipped installation. Knows nothing of the machine
that runs them; how each is set up and what it says stands in `examples/guests/README.md`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ftvm.errors import ConfigError

__all__ = ["NEED_DISK", "NEED_NETWORK", "SUMMARIES", "open_program", "read_program"]

SUMMARIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "console": "many numbered lines, then repeats what is typed",
        "dirty": "writes memory at a set rate and pattern, and finds any write that was lost",
        "entropy": "draws random bytes from the host and judges them",
        "hello": "greets with the C library's printf and ends",
        "journal": "appends to a log on the disk and goes on where the last run ended",
        "kv": "key-value server over Ethernet and UDP, port 7000",
        "ticks": "a timer interrupt every few milliseconds, asleep in between",
    }
)
"""What each program is, by its name."""

NEED_NETWORK: Final = frozenset({"kv"})
"""Those that end at once on a machine without a network card."""
NEED_DISK: Final = frozenset({"journal"})
"""Those that end at once on a machine without a disk."""


def read_program(name: str) -> bytes:
    """Read the ELF file of program `name`.

    Raises ConfigError if there is no such program; the message lists those there are.
    """
    return _resource(name).read_bytes()


def open_program(name: str) -> AbstractContextManager[Path]:
    """Give a path to the ELF file of program `name`, for tools that want one; valid within the `with` block.

    Raises ConfigError if there is no such program; the message lists those there are.
    """
    return as_file(_resource(name))


def _resource(name: str) -> Traversable:
    if name not in SUMMARIES:
        raise ConfigError(f"no guest program is called {name!r}; there are: {', '.join(sorted(SUMMARIES))}")
    return files(__name__) / f"{name}.elf"
