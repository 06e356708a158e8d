"""What of a disk survives a power cut: replays recorded steps, keeps apart what is durable and what is pending, and
builds the files for each choice of what made it.

`SyncedFiles.options` has, for each thing that may be lost by itself, what may be there after the cut: first what was
durable, last what the code wrote. `Picks` chooses one for each. The rules are those of powercut.py.
"""

import itertools
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Final, Literal, assert_never

from ftvm.testing.filesteps import ROOT, Created, Marked, ModeSet, Named, Resized, Step, Synced, Wrote

__all__ = ["Key", "Picks", "SyncedFiles", "Tree", "read_tree"]

Key = tuple[Literal["names", "mode", "size", "sector"], int, int]
"""What may be lost: of which file or folder, and which of its sectors or changes."""

Picks = dict[Key, int]

_REORDERED_MAX: Final = 4
"""Writes that meet in one sector and may come in any order; 65 orders."""


@dataclass(slots=True)
class _File:
    """One file: what is durable of it, and what is not yet, in order."""

    content: bytes = b""
    mode: int = 0o600
    pending: list[Wrote | Resized | ModeSet] = field(default_factory=list)

    def settle(self) -> None:
        """Make all of it durable."""
        self.content, self.mode = _apply(self.content, self.pending), self.modes()[-1]
        self.pending = []

    def sizes(self) -> list[int]:
        """Return the size that is durable and each that it had since."""
        sizes = [len(self.content)]
        for step in self.pending:
            if isinstance(step, Resized):
                sizes.append(step.size_bytes)
            elif isinstance(step, Wrote):
                sizes.append(max(sizes[-1], step.offset + len(step.content)))
        return sizes

    def modes(self) -> list[int]:
        """Return the rights that are durable and those that it got since."""
        return [self.mode, *(step.mode for step in self.pending if isinstance(step, ModeSet))]


@dataclass(slots=True)
class _Folder:
    """One folder: its durable names, and the changes that are not durable yet, in order."""

    names: dict[str, int] = field(default_factory=dict)
    pending: list[Named] = field(default_factory=list)

    def names_with(self, changes: Iterable[Named]) -> dict[str, int]:
        """Return the names, with some of the pending changes."""
        names = dict(self.names)
        for name, file in (pair for change in changes for pair in change.names):
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file
        return names

    def settle(self) -> None:
        """Make all of it durable."""
        self.names, self.pending = self.names_with(self.pending), []


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The files of one state, and the picks that made it. Files that no name leads to are not in it."""

    folders: Mapping[int, Mapping[str, int]]
    files: Mapping[int, tuple[int, bytes]] = field(repr=False)
    picks: Picks = field(repr=False, default_factory=dict)

    def names(self, folder: int = ROOT, prefix: str = "") -> dict[str, tuple[int, bytes] | None]:
        """Return each path with its file's mode and content; None for a folder."""
        found: dict[str, tuple[int, bytes] | None] = {}
        for name, number in self.folders[folder].items():
            found[prefix + name] = self.files.get(number)
            if number in self.folders:
                found |= self.names(number, f"{prefix}{name}/")
        return found

    def write_to(self, folder: Path) -> None:
        """Make the files below an empty folder, with the hard links among them."""
        made: dict[int, Path] = {}
        self._write(ROOT, folder, made)

    def _write(self, number: int, folder: Path, made: dict[int, Path]) -> None:
        for name, child in self.folders[number].items():
            path = folder / name
            if child in self.folders:
                path.mkdir()
                self._write(child, path, made)
            elif child in made:
                os.link(made[child], path)
            else:
                made[child] = path
                mode, content = self.files[child]
                path.write_bytes(content)
                path.chmod(mode)


class SyncedFiles:
    """The files as some steps left them. Nothing is durable before it was synced, but for what `settle` made so."""

    def __init__(self, sector_bytes: int) -> None:
        self._sector_bytes = sector_bytes
        self._files: dict[int, _File] = {}
        self._folders: dict[int, _Folder] = {}

    def take(self, step: Step) -> None:
        """Do one step."""
        match step:
            case Created():
                if step.is_folder:
                    self._folders[step.file] = _Folder()
                else:
                    self._files[step.file] = _File(mode=step.mode)
            case Named():
                self._folders[step.folder].pending.append(step)
            case Wrote() | Resized() | ModeSet():
                self._files[step.file].pending.append(step)
            case Synced():
                (self._folders.get(step.file) or self._files[step.file]).settle()
            case Marked():
                pass
            case _:
                assert_never(step)

    def settle(self) -> None:
        """Make all durable, as if the machine had been shut down in order."""
        for file in self._files.values():
            file.settle()
        for folder in self._folders.values():
            folder.settle()

    # --- what may be lost ------------------------------------------------------------------------------------------

    @cached_property
    def options(self) -> dict[Key, Sequence[Any]]:
        """What may be there after a cut, for each thing that may be lost: durable first, all there last."""
        return {key: options for key, options in self._find_options() if len(options) > 1}

    def count_states(self) -> int:
        """Return how many states a cut may leave, some of them perhaps alike."""
        return prod(map(len, self.options.values()))

    def picks_of_all(self) -> Picks:
        """Return the picks of a cut that loses nothing."""
        return {key: len(options) - 1 for key, options in self.options.items()}

    def tell_lost(self, picks: Picks) -> tuple[str, ...]:
        """Return for a person what did not make it."""
        names = {ROOT: "the folder"}
        for folder in self._folders.values():
            for change in (Named(folder=ROOT, names=tuple(folder.names.items())), *folder.pending):
                names |= {file: name for name, file in change.names if file is not None}
        whole = self.picks_of_all()
        return tuple(self._tell(key, names) for key in picks if picks[key] != whole[key])

    def _tell(self, key: Key, names: Mapping[int, str]) -> str:
        kind, number, index = key
        name = names.get(number, f"file {number}")
        if kind == "names":
            changed = [
                f"{name} -> {names.get(file, file) if file is not None else 'nothing'}"
                for name, file in self._folders[number].pending[index].names
            ]
            return f"names ({', '.join(changed)})"
        return f"{kind} {index} of {name}" if kind == "sector" else f"{kind} of {name}"

    def _find_options(self) -> Iterator[tuple[Key, Sequence[Any]]]:
        for number, folder in self._folders.items():
            for index in range(len(folder.pending)):
                yield ("names", number, index), (False, True)
        named = self._named()
        for number, file in self._files.items():
            if number not in named:
                continue  # whatever became of it, nobody can open it
            yield ("mode", number, 0), _distinct(file.modes())
            yield ("size", number, 0), _distinct(file.sizes())
            for sector in self._sectors_of(file):
                yield ("sector", number, sector), self._contents_of(file, sector)

    def _named(self) -> set[int | None]:
        """Return the files that some name leads to, or may lead to."""
        durable = {file for folder in self._folders.values() for file in folder.names.values()}
        changes = (change for folder in self._folders.values() for change in folder.pending)
        return durable | {file for change in changes for _, file in change.names}

    def _sectors_of(self, file: _File) -> range:
        """Return the sectors that pending steps may have touched."""
        if not file.pending:
            return range(0)
        return range(-(-max(file.sizes()) // self._sector_bytes))

    def _contents_of(self, file: _File, sector: int) -> Sequence[bytes]:
        """Return what a sector may hold: any of the writes that meet in it, in any order."""
        start = sector * self._sector_bytes
        durable = file.content[start : start + self._sector_bytes].ljust(self._sector_bytes, b"\0")
        writes = [part for part in (_part(step, start, self._sector_bytes) for step in file.pending) if part]
        if len(writes) > _REORDERED_MAX:
            orders: Iterable[Sequence[tuple[int, bytes]]] = (writes[:count] for count in range(len(writes) + 1))
        else:
            counts = range(len(writes) + 1)
            orders = itertools.chain.from_iterable(itertools.permutations(writes, count) for count in counts)
        return _distinct([durable, *(_overlay(durable, order) for order in orders), _overlay(durable, writes)])

    # --- the state -------------------------------------------------------------------------------------------------

    def tree(self, picks: Picks) -> Tree:
        """Return the files of the state that `picks` makes."""
        folders = {
            number: folder.names_with(
                change
                for index, change in enumerate(folder.pending)
                if self._picked(picks, ("names", number, index), True)
            )
            for number, folder in self._folders.items()
        }
        files = {number: self._survivor(number, file, picks) for number, file in self._files.items()}
        return Tree(folders=folders, files=files, picks=picks)

    def _survivor(self, number: int, file: _File, picks: Picks) -> tuple[int, bytes]:
        mode = self._picked(picks, ("mode", number, 0), file.mode)
        size: int = self._picked(picks, ("size", number, 0), len(file.content))
        content = bytearray(file.content.ljust(size, b"\0"))
        for sector in self._sectors_of(file):
            key: Key = ("sector", number, sector)
            start = sector * self._sector_bytes
            if key in picks and start < size:
                content[start : start + self._sector_bytes] = self._picked(picks, key, b"")
        return mode, bytes(content[:size])

    def _picked(self, picks: Picks, key: Key, default: Any) -> Any:
        return self.options[key][picks[key]] if key in picks else default


def read_tree(root: Path) -> Tree:
    """Return the files below a folder as they are now."""
    folders: dict[int, dict[str, int]] = {}
    files: dict[int, tuple[int, bytes]] = {}
    numbers = itertools.count()

    def read(path: Path) -> int:
        number = next(numbers)
        if path.is_dir():
            folders[number] = {}
            folders[number] |= {child.name: read(child) for child in sorted(path.iterdir())}
        else:
            files[number] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
        return number

    read(root)
    return Tree(folders=folders, files=files)


def _apply(content: bytes, steps: Iterable[Wrote | Resized | ModeSet]) -> bytes:
    for step in steps:
        if isinstance(step, Resized):
            content = content[: step.size_bytes].ljust(step.size_bytes, b"\0")
        elif isinstance(step, Wrote):
            end = step.offset + len(step.content)
            content = content[: step.offset].ljust(step.offset, b"\0") + step.content + content[end:]
    return content


def _part(step: Wrote | Resized | ModeSet, start: int, size: int) -> tuple[int, bytes] | None:
    """Return what a step writes into the sector at `start`: where in it, and what."""
    if isinstance(step, ModeSet):
        return None
    if isinstance(step, Resized):
        first = max(step.size_bytes - start, 0)
        return (first, bytes(size - first)) if first < size else None
    first, last = max(step.offset, start), min(step.offset + len(step.content), start + size)
    return (first - start, step.content[first - step.offset : last - step.offset]) if first < last else None


def _overlay(content: bytes, writes: Iterable[tuple[int, bytes]]) -> bytes:
    whole = bytearray(content)
    for offset, part in writes:
        whole[offset : offset + len(part)] = part
    return bytes(whole)


def _distinct(options: Sequence[Any]) -> Sequence[Any]:
    """Return each option once: the first one first, the last one last."""
    kept = list(dict.fromkeys(options))
    if kept[-1] != options[-1]:
        kept.remove(options[-1])
        kept.append(options[-1])
    return kept
