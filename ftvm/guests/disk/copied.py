"""What a disk with an image does on a standby, whatever machine it is of: while its content comes from the active, a
separate file grows beside the image, and takes what the image has that is the same; and it says when it is durable.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from ftvm._native.mapping import FileMapping
from ftvm._native.memory import is_unknown
from ftvm.guests.disk.blocks import data_runs
from ftvm.guests.disk.image import Image

__all__ = ["CopiedDisk"]


class CopiedDisk(ABC):
    """The part of a region's store that a first copy speaks to. `_shown` is the file that the disk's memory shows, and
    `_is_whole` says whether a guest could run from it."""

    image: Image
    _mapping: FileMapping
    _shown: int | None
    _is_whole: bool

    @abstractmethod
    def discarded(self) -> None:
        """See interfaces.RegionStore."""

    def _begin_copy(self) -> None:
        self._is_whole = False
        self._shown = self.image.restart()
        self._mapping.show(self._shown)

    def held(self) -> Sequence[tuple[int, int]]:
        """See interfaces.RegionStore."""
        self.discarded()
        return self.image.outlived()

    def place_at(self, first_page: int) -> None:
        """See interfaces.RegionStore."""
        self.image.place_at(first_page)

    def offer(self, first: int, count: int) -> bytes | None:
        """See interfaces.RegionStore."""
        self._mapping.show_part(self.image.descriptor, first, count)
        return self.image.hashes(first, count)

    def keep(self, first: int, count: int, pages: Sequence[int]) -> Sequence[int]:
        """See interfaces.RegionStore."""
        kept, hashes = self.image.keep(pages), self.image.hashes(first, count)
        if self._shown is None or kept is None:
            return ()
        self._mapping.show_part(self._shown, first, count)
        for begin, pages_kept in kept.runs:
            self._mapping.show_part(self.image.descriptor, begin, pages_kept)
        if hashes is None:
            return ()
        return [page for page in pages if page not in kept.left and not is_unknown(hashes, page - first)]

    def why_nameless(self) -> str | None:
        """Return what becomes of the image, if its file was deleted or another one put in its place."""
        status = self.image.status()
        if status is None or status.st_nlink > 0 or self.image.is_device:
            return None
        return f"the image of the disk {self.image.path} was deleted: it is gone for good when this host ends"

    def _unreadable(self, pages: int) -> str:
        """Say that so many pages failed, and what no error of a page tells: a hole on a tmpfs takes room to be read."""
        full = self.image.full_folder()
        cause = "" if full is None else f"; the file system of {full} is full, and some need room: free some space"
        return f"the disk {self.image.path} cannot be read: {pages} of its pages failed{cause}"

    def _take_written(self) -> set[int]:
        """Return the pages that the file has by now: memory need not hold them any more."""
        self._show_moved()
        return self.image.take_written()

    def _show_moved(self) -> None:
        """Have the memory show a device that was shown from its stage, once it has all of that. Raises GuestError."""
        if self.image.has_moved():
            self.image.show(self._show_under)
            self._shown = self.image.descriptor

    @abstractmethod
    def _show_under(self, descriptor: int) -> None:
        """Have the memory show a file of the same content under what was written to it. Raises GuestError."""

    def _shown_runs(self) -> Iterator[tuple[int, int]]:
        """Yield the first page and the end of each run of what is shown that may not be zeros."""
        if self._shown is None:
            return
        if self.image.is_device:  # perhaps part of it is, and the rest its stage
            yield 0, self.image.page_count
        else:
            yield from data_runs(self._shown)

    def persist(self, then: Callable[[str | None], None]) -> None:
        """See interfaces.RegionStore."""

        def tell(error: OSError | None) -> None:
            then(None if error is None else f"the disk {self.image.path} cannot be written: {error.strerror or error}")

        self.image.persist(tell)

    def completed(self) -> None:
        """See interfaces.RegionStore."""
        self._is_whole = True
        self.image.complete()
