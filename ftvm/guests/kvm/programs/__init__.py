"""The programs for the KVM machine that come with ftvm: x86-64 ELF files, built from `examples/kvm`.

Promises: what `SUMMARIES` names can be read, also from a zipped installation.
"""

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from ftvm.errors import ConfigError

__all__ = ["NEED_NETWORK", "SUMMARIES", "read_program"]

SUMMARIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "kv": "key-value server over Ethernet and UDP, port 7000",
        "pages": "writes so many pages, says so, and again; a typed line sets the number",
        "work": "writes memory and numbered lines for ever, and repeats what is typed",
    }
)
"""What each program is, by its name."""

NEED_NETWORK: Final = frozenset({"kv"})
"""Those that end at once on a machine without a network card."""


def read_program(name: str) -> bytes:
    """Read the ELF file of program `name`.

    Raises ConfigError if there is no such program; the message lists those there are.
    """
    if name not in SUMMARIES:
        raise ConfigError(f"no program for a KVM machine is called {name!r}; there are: {', '.join(sorted(SUMMARIES))}")
    return (files(__name__) / f"{name}.elf").read_bytes()
