"""Reads from files what our machines start with: the program, and the content of a disk that is kept in memory.

It promises a ConfigError or ImageError that names the file and says what is wrong with it, before any of it is used.
It never writes: a disk lives in the machine's memory, and the file is only where its content comes from.
"""

from pathlib import Path
from typing import BinaryIO, Final, Protocol

from ftvm.errors import ConfigError, ImageError
from ftvm.guests.imagefile import image_bytes, require_raw

__all__ = ["DiskMemory", "disk_bytes", "fill_disk", "load_disk", "read_program_file"]

_PROGRAM_BYTES_MAX: Final = 256 << 20
_PIECE_BYTES: Final = 1 << 20


class DiskMemory(Protocol):
    """The memory in which a disk is kept."""

    @property
    def buffer(self) -> memoryview:
        """Its content."""
        ...

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Write from outside."""
        ...


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


def disk_bytes(disk: bytes | int | str | Path) -> int:
    """Return the size of a disk that is given by its content, its size or its raw image. Raises ConfigError."""
    if isinstance(disk, int):
        return disk
    return len(disk) if isinstance(disk, bytes) else image_bytes(str(disk))


def fill_disk(disk: bytes | int | str | Path, memory: DiskMemory | None) -> None:
    """Put a disk's content into blank memory, if there is any. Raises ConfigError."""
    if memory is None or isinstance(disk, int):
        return
    if isinstance(disk, bytes):
        memory.write(0, disk)
    else:
        load_disk(Path(disk), memory)


def load_disk(path: Path, disk: DiskMemory) -> None:
    """Copy the raw image at `path` to a blank disk, piece by piece; what is zero stays untouched.

    `disk` is of the size that `image_bytes` told; raises ConfigError if that is no longer the file's.
    """
    try:
        with path.open("rb") as file:
            if require_raw(file.fileno(), path) != len(disk.buffer):
                raise ConfigError(f"the disk {path} changed its size while it was read: is it in use?")
            for offset in range(0, len(disk.buffer), _PIECE_BYTES):
                _load_piece(file, path, offset, disk)
    except OSError as error:
        raise ConfigError(f"the disk {path} cannot be read: {error.strerror}") from error


def _load_piece(file: BinaryIO, path: Path, offset: int, disk: DiskMemory) -> None:
    wanted = min(_PIECE_BYTES, len(disk.buffer) - offset)
    piece = file.read(wanted)
    if len(piece) != wanted:
        raise ConfigError(f"the disk {path} changed its size while it was read: is it in use?")
    if piece.count(0) != wanted:
        disk.write(offset, piece)
