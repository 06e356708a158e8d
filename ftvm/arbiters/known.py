"""A record store that remembers the newest record over restarts of the host: an arbiter that forgot is not believed.

Hosts remember the newest record for as long as they run. A host that starts afresh believes whatever the arbiter says,
also one that was restored from an old copy, or is empty because the wrong storage is mounted: with `--create` it would
start a second guest. Where the user gives a place (``?known=FOLDER`` in the arbiter's URL), the newest record is kept
there as well, and an older or another one is refused with an ArbiterError.

A record is kept before it is told: written aside, fsynced, named ``<guest>.<generation>`` by link(2), the folder
fsynced. Names are never reused, so that several hosts may share a folder and what is kept never goes back; older ones
are removed once a newer one is durable. A record that cannot be kept is not returned: an error names the folder, and
the request is repeated. So a full disk there delays a takeover, as the arbiter's full disk would; that is the price.

Does not know: who asks, and what for. Source: docs/protocol.md, "The record".
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ftvm.arbiters.obstacle import check_writable, obstacle_of
from ftvm.arbiters.proposal import before_deciding, file_name
from ftvm.arbiters.recordtext import RECORD_BYTES_MAX, decode_record, encode_record
from ftvm.errors import ArbiterError
from ftvm.interfaces import Record, RecordStore

__all__ = ["KnownRecordStore"]

_NO_RECORD: Final = Record(0, None, None)
_ASIDE: Final = ".aside"


class KnownRecordStore:
    """interfaces.RecordStore that asks `store`, and keeps what it says in `folder`, which must exist."""

    def __init__(self, store: RecordStore, folder: Path) -> None:
        """Take `store` over: it is closed with this. Raises ArbiterError if the folder cannot be read."""
        self._store = store
        self._folder = folder
        self._known: dict[str, Record] = {}
        with self._explained("read"):
            os.listdir(folder)

    def read(self, guest_id: str) -> Record:
        """See interfaces.RecordStore."""
        known = self._known_of(guest_id)  # first: what is kept meanwhile, by another host, is newer than the answer
        return self._believed(guest_id, known, self._store.read(guest_id))

    def compare_and_set(self, guest_id: str, record: Record) -> Record:
        """See interfaces.RecordStore. What is decided and cannot be kept is an ArbiterError: repeat the proposal."""
        with before_deciding():
            known = self._known_of(guest_id)
        return self._believed(guest_id, known, self._store.compare_and_set(guest_id, record))

    def place_id(self, guest_id: str) -> str | None:
        """See interfaces.RecordStore."""
        return self._store.place_id(guest_id)

    def obstacle(self) -> str | None:
        """See arbiters/obstacle.TellsObstacle."""
        try:
            with self._explained("written"):
                check_writable(self._folder)
        except ArbiterError as wrong:
            return str(wrong)
        return obstacle_of(self._store)

    def close(self) -> None:
        """Close the store. Idempotent."""
        self._store.close()

    def _known_of(self, guest_id: str) -> Record:
        if guest_id not in self._known:
            self._known[guest_id] = self._load(guest_id)
        return self._known[guest_id]

    def _believed(self, guest_id: str, known: Record, record: Record) -> Record:
        if record.generation < known.generation or (record.generation == known.generation and record != known):
            raise self._forgotten(guest_id, record, known.generation)
        if record.generation > known.generation:
            with self._explained("written"):
                self._keep(guest_id, record)
        self._known[guest_id] = record
        return record

    def _forgotten(self, guest_id: str, record: Record, known: int) -> ArbiterError:
        return ArbiterError(
            f"the arbiter has forgotten: it says generation {record.generation} of {guest_id}, but this host knows a "
            f"later one, or another one (generation {known}, kept in {self._folder}). Bring the right record back. If "
            f"it is lost for good and no host of this guest runs, remove {self._path_of(guest_id, known)}"
        )

    # --- the folder ------------------------------------------------------------------------------------------------

    def _load(self, guest_id: str) -> Record:
        """Return the newest record that is kept; generation 0 without one. Raises ArbiterError."""
        with self._explained("read"):
            kept = self._generations(guest_id)
            if not kept:
                return _NO_RECORD
            # Whoever named it may have died before its own fsync.
            self._sync_folder()
            return self._read(guest_id, max(kept))

    def _read(self, guest_id: str, generation: int) -> Record:
        path = self._path_of(guest_id, generation)
        with path.open("rb", buffering=0) as file:
            content = file.read(RECORD_BYTES_MAX + 1)
        try:
            return decode_record(content, guest_id=guest_id, generation=generation)
        except ArbiterError as error:
            raise ArbiterError(
                f"{path} cannot be trusted: {error}. Remove it once you know that the arbiter has the newest record"
            ) from error

    def _keep(self, guest_id: str, record: Record) -> None:
        """Make a record durable here, then remove older ones. Raises OSError."""
        path = self._path_of(guest_id, record.generation)
        aside = self._folder / f".{path.name}.{secrets.token_hex(8)}{_ASIDE}"
        try:
            with aside.open("xb") as file:
                file.write(encode_record(guest_id, record))
                file.flush()
                os.fsync(file.fileno())
            os.link(aside, path)
        except FileExistsError:  # another host of this machine has kept it
            if self._read(guest_id, record.generation) != record:
                raise self._forgotten(guest_id, record, record.generation) from None
        finally:
            with contextlib.suppress(OSError):  # it costs some bytes; an error here would hide the first one
                aside.unlink()
        self._sync_folder()
        for generation in self._generations(guest_id):
            if generation < record.generation:
                with contextlib.suppress(OSError):
                    self._path_of(guest_id, generation).unlink()

    def _generations(self, guest_id: str) -> list[int]:
        pattern = re.compile(re.escape(file_name(guest_id)) + r"\.([0-9]{20})")
        return [int(match[1]) for match in map(pattern.fullmatch, os.listdir(self._folder)) if match]

    def _path_of(self, guest_id: str, generation: int) -> Path:
        return self._folder / f"{file_name(guest_id)}.{generation:020d}"

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArbiterError(
                f"what this host knows of the record cannot be {what} in {self._folder}: {error.strerror or error}; "
                "repair the folder, or leave known= out of the arbiter's URL"
            ) from error
