"""Reads the program that a machine of ours starts with.

It promises a ConfigError or ImageError that names the file and says what is wrong with it, before any of it is used.
"""

from pathlib import Path
from typing import Final

from ftvm.errors import ConfigError, ImageError

__all__ = ["read_program_file"]

_PROGRAM_BYTES_MAX: Final = 256 << 20


def read_program_file(path: Path) -> bytes:
    """Return the content of a program's file. Raises ConfigError or ImageError."""
    try:
        if path.stat().st_size > _PROGRAM_BYTES_MAX:
            raise ImageError(
                f"{path} is larger than {_PROGRAM_BYTES_MAX >> 20} MiB: that is no program for this machine"
            )
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the program {path} cannot be read: {error.strerror}") from error
