"""The record as files in one directory: for hosts that share storage, or for one host.

Each generation is a separate file, ``<guest>.<generation>``, immutable: written aside under a name that nobody
reads, fsynced, published with link(2), which fails if the name exists; then the directory is fsynced. link(2) decides
each generation once and for all; there is no lock. (Refused: lock and rename. A holder that is paused loses an NFS
lock without noticing and renames over a newer record.)

What holds:

* whoever finds that generation g exists can only propose g + 1, and all files are kept, so generations have no gaps and
  a proposal that is a thousand generations late still meets EEXIST. Deleting old files would break exactly that;
* a lost answer of link(2) (NFS) needs no link count: the proposer reads what is published under the name; if it is what
  it proposed, it won, whoever's answer was lost;
* a crash at any instant, and a power cut, leaves either no file or a whole one under a published name, and perhaps a
  file aside, which the next change removes once its generation is decided;
* a file that cannot be read, and a folder that forgot (its generations went backwards, or one that was told holds
  another record now, as in a folder that was restored from a backup and then moved on), are an ArbiterError: stop, do
  not guess;
* who may list the folder may read its records, whatever the umask of the host that wrote them: hosts may run as
  different users, a record holds no secret, and the rights of the folder say who is let in.

Does not know: roles, replicas, which change is legal. On NFS mount with ``lookupcache=positive`` (or ``noac``), or
reads may be stale for seconds; proposals are safe even so, because the server decides them.

Source: docs/protocol.md, "Arbiters"; link(2).
"""

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ftvm.arbiters.obstacle import check_writable
from ftvm.arbiters.proposal import before_deciding, check_proposal, file_name
from ftvm.arbiters.recordtext import RECORD_BYTES_MAX, decode_placed, encode_record, fresh_place
from ftvm.errors import ArbiterError, ClosedError
from ftvm.interfaces import Record

__all__ = ["FileRecordStore"]

_ASIDE: Final = ".aside"
_NO_RECORD: Final = Record(0, None, None)
_READERS: Final = stat.S_IRGRP | stat.S_IROTH


class FileRecordStore:
    """interfaces.RecordStore in the directory `path`, which must exist.

    It is never created here: if a share is not mounted, an empty directory would look like a guest without a record.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._highest: dict[str, int] = {}
        self._told: dict[str, Record] = {}
        self._places: dict[str, str | None] = {}
        self._is_closed = False
        with self._explained("opened"):
            os.listdir(self._path)

    @property
    def path(self) -> Path:
        """The directory."""
        return self._path

    def read(self, guest_id: str) -> Record:
        """Return the record in force; generation 0 if the guest has no record. Raises ArbiterError."""
        self._check_open()
        guest, told = file_name(guest_id), self._told.get(guest_id, _NO_RECORD)
        with self._explained("read"):
            generation = self._find_highest(guest)
            if told.generation:
                self._check_remembers(guest_id, told)
            # Not before: the right directory need not have what a wrong one holds. And not after: a generation that
            # exists was decided, even if it cannot be read, and must not be gone when it is looked for again.
            self._highest[guest] = generation
            if generation != told.generation:
                told, place = self._load(guest_id, generation)
                self._told[guest_id] = told
                self._places[guest_id] = place or self.place_id(guest_id)  # a record of 0.1 has none, and does not move
        return told

    def place_id(self, guest_id: str) -> str | None:
        """See interfaces.RecordStore."""
        return self._places.get(guest_id)

    def obstacle(self) -> str | None:
        """See arbiters/obstacle.TellsObstacle."""
        try:
            with self._explained("written"):
                check_writable(self._path)
        except ArbiterError as wrong:
            return str(wrong)
        return None

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        """Put `record` in force if it is the next generation; return what is in force now.

        Raises ArbiterError when it is not known whether it was applied: repeat the same proposal, or read. What fails
        before link(2), such as writing aside on a full disk, is NotApplied: nobody publishes what another wrote aside.
        """
        check_proposal(record)
        with before_deciding():
            in_force = self.read(guest_id)
        if in_force.generation != record.generation - 1:
            return in_force
        guest = file_name(guest_id)
        self._publish(
            guest, record.generation, encode_record(guest_id, record, self.place_id(guest_id) or fresh_place())
        )
        decided = self.read(guest_id)
        if decided.generation < record.generation:
            raise ArbiterError(f"{self._path}: the record was not written; try again")
        self._sweep(guest, decided.generation)
        return decided

    def close(self) -> None:
        """Nothing is held open between calls; further ones are refused. Idempotent."""
        self._is_closed = True

    # --- reading ----------------------------------------------------------------------------------

    def _find_highest(self, guest: str) -> int:
        """Return the highest generation published; list the directory the first time, later only look for the next."""
        known = self._highest.get(guest)
        highest = self._list_highest(guest) if known is None else known
        if highest > 0 and not self._exists(guest, highest):
            raise ArbiterError(
                f"{self._path}: generation {highest} of {guest} was there and is gone: the arbiter has forgotten. "
                "Mount or restore the right directory; ftvm changes nothing until then"
            )
        while self._exists(guest, highest + 1):
            highest += 1
        if highest != known:
            # Whoever published it may have died before its own fsync; nobody may act on what a power cut can undo.
            _fsync_directory(self._path)
        return highest

    def _list_highest(self, guest: str) -> int:
        pattern = re.compile(re.escape(guest) + r"\.([0-9]{20})")
        found = (pattern.fullmatch(name) for name in os.listdir(self._path))
        return max((int(match[1]) for match in found if match), default=0)

    def _exists(self, guest: str, generation: int) -> bool:
        try:
            os.stat(self._file(guest, generation))
        except FileNotFoundError:
            return False
        return True

    def _check_remembers(self, guest_id: str, told: Record) -> None:
        """Check that the generation that was told last still holds what was told; raises ArbiterError."""
        if self._load(guest_id, told.generation)[0] != told:
            raise ArbiterError(
                f"{self._path}: generation {told.generation} of {guest_id} holds another record than before: the "
                "arbiter has forgotten, and gone another way. Was an old copy of the directory restored? Restore the "
                "right one; ftvm changes nothing until then"
            )

    def _load(self, guest_id: str, generation: int) -> tuple[Record, str | None]:
        path = self._file(file_name(guest_id), generation)
        with path.open("rb", buffering=0) as file:
            content = file.read(RECORD_BYTES_MAX + 1)
        try:
            return decode_placed(content, guest_id=guest_id, generation=generation)
        except ArbiterError as error:
            raise ArbiterError(
                f"{path} cannot be trusted: {error}. ftvm does not guess; restore the file from a backup"
            ) from error

    # --- writing ----------------------------------------------------------------------------------

    def _publish(self, guest: str, generation: int, content: bytes) -> None:
        """Publish the generation: on return its file exists, ours or that of another proposer."""
        aside = self._path / f".{guest}.{generation:020d}.{secrets.token_hex(8)}{_ASIDE}"
        try:
            with before_deciding(), self._explained("written"):
                _write_aside(aside, content)
            # The one decision. EEXIST: somebody published first, or our own link was carried out and its answer lost.
            # ENOENT: somebody else swept our file, which happens only when the generation is decided. Either way: read.
            # Any other error leaves it open: an answer of NFS may be of a repeat, and the first one was carried out.
            with self._explained("written"), contextlib.suppress(FileExistsError, FileNotFoundError):
                os.link(aside, self._file(guest, generation))
        finally:
            _remove(aside)

    def _sweep(self, guest: str, decided: int) -> None:
        """Remove the files that crashed writers left aside for generations that are decided by now."""
        pattern = re.compile(r"\." + re.escape(guest) + r"\.([0-9]{20})\.[0-9a-f]{16}" + re.escape(_ASIDE))
        # The proposal is decided and must be reported, whatever becomes of the leftovers.
        with contextlib.suppress(OSError):
            for match in filter(None, map(pattern.fullmatch, os.listdir(self._path))):
                if int(match[1]) <= decided:
                    _remove(self._path / match[0])

    def _file(self, guest: str, generation: int) -> Path:
        return self._path / f"{guest}.{generation:020d}"

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("this record store is closed")

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn an OSError into an ArbiterError that names the directory and the remedy."""
        try:
            yield
        except OSError as error:
            remedy = _REMEDIES.get(
                error.errno or 0, "check the storage, then try again (a running host does so by itself)"
            )
            reason = error.strerror or str(error)
            raise ArbiterError(f"arbiter directory {self._path} cannot be {what}: {reason}; {remedy}") from error


def _write_aside(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(fd, "wb", buffering=0) as file:
        _let_read(fd, path.parent)
        written = file.write(content)
        if written != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)


def _let_read(fd: int, directory: Path) -> None:
    """Let everyone read a new record who may list its directory. Nobody writes it again, not even its owner."""
    mode = stat.S_IMODE(os.stat(directory).st_mode) & _READERS | stat.S_IRUSR | stat.S_IWUSR
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:
        # A share that keeps no rights of files has its own way to let users in; it is no reason to fail.
        with contextlib.suppress(OSError):
            os.fchmod(fd, mode)


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    # A file that stays aside costs some bytes; an error here would hide what became of the proposal.
    with contextlib.suppress(OSError):
        path.unlink()


_REMEDIES: Final = {
    errno.ENOENT: "make it (`mkdir -p`), or mount the storage that holds it",
    errno.ENOTDIR: "name a directory",
    errno.EACCES: "let this user read, write and search it (`ls -ld` shows its rights)",
    errno.EPERM: "it must allow hard links: use ext4, xfs, btrfs or NFS",
    errno.EOPNOTSUPP: "it must allow hard links: use ext4, xfs, btrfs or NFS",
    errno.EROFS: "the file system is read-only: remount it for writing",
    errno.ENOSPC: "the disk is full: free some space (a running host tries again by itself)",
    errno.EDQUOT: "the quota is used up: free some space (a running host tries again by itself)",
    errno.ESTALE: "the share was exported again: remount it",
}
