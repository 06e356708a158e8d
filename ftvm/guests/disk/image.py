"""A disk image in a raw file, which a crash at any moment leaves as one of the states it was given.

`put` takes the pages that make up the step from one state to the next, all of them or nothing: they are written to a
journal beside the image first, and only then to their places. Whoever opens the image next finishes a journal that is
whole and drops one that is torn. A disk that is copied again grows in a separate file (fresh.py), which takes the
image's place, or is moved to the device, once it is complete. A thread does this. Steps that come faster than it takes
them are merged, so what waits is never more than the disk itself.

What the image says of itself (label.py) is written by the same thread, behind what it claims: `stand` says where the
guest stands, and a label is never better than its file.

`give` hands the file to a guest in use of it (disk.py), `take_back` ends that. What a crash leaves of what was written
in between is undefined, as with any disk between two flushes; what was put before is there. Knows nothing of
epochs, guests or NBD.
"""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from ftvm.checkpoint import Footing
from ftvm.errors import ConfigError
from ftvm.guests.blockdevice import hold_folder, is_device, side_path
from ftvm.guests.disk.blocks import offered_runs, write_pages
from ftvm.guests.disk.files import FULL, open_image, with_cause
from ftvm.guests.disk.fresh import DeviceCopy, Fresh, Kept, finish_stage
from ftvm.guests.disk.hashes import REGION_PAGES, REST_SECONDS, HashFile
from ftvm.guests.disk.journal import finish_journal, write_journal
from ftvm.guests.disk.label import Label, LabelFile, stage_path, sync_directory
from ftvm.units import PAGE_BYTES, pages_to_bytes

__all__ = ["Image"]

_SYNC_SECONDS: Final = 30.0
_STEP_SECONDS: Final = 0.2
"""It is the loop that waits: shorter than the least silence that a host is taken for dead for."""

Given = Callable[[OSError | None], None]
"""Called once something is so: with what went wrong, if anything did."""


class Image:
    """A raw image file of whole pages, held by one process at a time.

    descriptor  of the file, for reading
    error       why it is no longer written, None while it is; what it holds then is the last state before that
    """

    def __init__(self, path: Path, *, boots: bool = False) -> None:
        """Open the image and finish what a crash has left. With `boots`, a guest is about to write to it.

        Raises ConfigError if it is missing, of odd size, or in use by another process.
        """
        self.path = path
        self._place = Path(os.path.realpath(path))  # what a symbolic link leads to is the image, and the link stays
        side = side_path(self._place)
        self._folder = side.parent
        self._journal_path = side.with_name(side.name + ".journal")
        self._fresh_path = side.with_name(side.name + ".new")
        self._stage_path = stage_path(side)
        self.descriptor, self.page_count = open_image(path)
        self.is_device, self._held = is_device(os.fstat(self.descriptor)), -1
        try:
            if self.is_device:
                self._held = hold_folder(path, side)
                finish_stage(self._stage_path, self.descriptor, self.page_count)
            finish_journal(self._journal_path, self.descriptor, self.page_count)
            self._fresh_path.unlink(missing_ok=True)
            self._labels = LabelFile(self._place, self.descriptor)
            if boots:  # before the guest's first write
                self._labels.write(replace(self.label, runs=True, epoch=0, is_clean=False))
        except OSError as wrong:
            self._let_go()
            raise ConfigError(f"the disk {path}, or its folder {self._folder}, cannot be written: {wrong}") from wrong
        except ConfigError:
            self._let_go()
            raise
        self._hashes = HashFile(side, self._place, self.descriptor, self.page_count, is_given=boots)
        self.error: OSError | None = None
        self._changed = threading.Condition()
        self._waiting: dict[int, bytes] = {}
        self._written: set[int] = set()
        self._begun: Fresh | None = None
        self._is_complete = False
        self._fresh: Fresh | None = None
        self._moving: DeviceCopy | None = None  # whole, and on its way to the device
        self._staged: DeviceCopy | None = None  # what the memory shows in the place of the device
        self._given: Given | None = None
        self._leave: Callable[[], None] | None = None
        self._persists: list[Given] = []
        self._footing: Footing | None = None
        self._runs = self._is_lent = boots
        self._is_unsynced = False
        self._is_writing = self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=f"ftvm-image-{path.name}", daemon=True)
        self._thread.start()

    @property
    def label(self) -> Label:
        """What the image says of itself, as it is on the device."""
        return self._labels.label

    def place_at(self, first_page: int) -> None:
        """Note which number the first page has in its guest's memory: `hashes` are seeded with it."""
        self._hashes.place_at(first_page)

    def hashes(self, first: int, count: int) -> bytes | None:
        """As HashFile.of; between `outlived` and the first `put`."""
        return self._hashes.of(self.descriptor, first, count) if self.error is None else None

    def stand(self, footing: Footing) -> None:
        """Have the label say that the image has, with what was put so far, what the guest is at there."""
        with self._changed:
            self._footing, self._runs = footing, footing.runs
            self._changed.notify_all()

    def put(self, pages: Iterable[int], disk: memoryview) -> None:
        """Take the step to the state that `disk` is in now, of which only `pages` are new. Does not wait.

        After `restart` it is a step towards a state, until `complete`.
        """
        self.put_copies({page: bytes(disk[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]) for page in pages})

    def put_copies(self, step: Mapping[int, bytes]) -> None:
        """As `put`, of pages that were copied already."""
        with self._changed:
            if self.error is None:
                self._waiting.update(step)
                self._written.difference_update(step)
                self._changed.notify_all()

    def take_written(self) -> set[int]:
        """Return the pages that were put, have reached the file that is shown since the last call, and were not put
        again."""
        with self._changed:
            if self._staged is not None:
                return set()
            later = self._written & self._fresh.over if isinstance(self._fresh, DeviceCopy) else set()
            written, self._written = self._written - later, later
        return written

    def has_moved(self) -> bool:
        """Tell whether the device has what was shown from its stage, so that `show` may be called."""
        with self._changed:
            return self._staged is not None and self._moving is None

    def show(self, then: Callable[[int], None]) -> None:
        """Have `then` show the file, of which it gets the descriptor, in the place of the stage."""
        then(self.descriptor)
        with self._changed:
            self._drop_staged()

    def restart(self) -> int | None:
        """Begin another disk, all zeros so far; return its file, for reading, until the next `restart`.

        The image stays as it is, or was to be, until `complete`. Returns None if there can be no such file: `error`
        tells.
        """
        with self._changed:
            self._waiting, self._written, self._is_complete = {}, set(), False
            self._footing, self._runs, self._is_lent = None, False, False
            self._drop_staged()
            try:
                if self.is_device:
                    begun: Fresh = DeviceCopy(self._fresh_path, self.page_count, self.descriptor)
                else:
                    begun = Fresh(self._fresh_path, self.descriptor, pages_to_bytes(self.page_count))
            except OSError as wrong:
                self.error = self.error or wrong
                return None
            if self._begun is not None:
                self._begun.close()
            self._begun = begun
            self._changed.notify_all()
        return begun.descriptor

    def outlived(self) -> list[tuple[int, int]]:
        """Return runs of the image's pages, as first page and count, that may be of use for the disk that `restart`
        began: all that may not be zero. No run is returned while a step is on its way to the image for too long."""
        with self._changed:
            is_still = self._changed.wait_for(self._has_begun, _STEP_SECONDS)
            return offered_runs(self.descriptor, self.page_count) if is_still and self.error is None else []

    def keep(self, pages: Sequence[int]) -> Kept | None:
        """Have the disk that `restart` began, and nothing was put to yet, hold these pages of the image, which rise.
        Returns what became of them; None if that failed."""
        with self._changed:
            try:
                if self._fresh is not None and self.error is None:
                    return self._fresh.keep(self.descriptor, pages)
            except OSError as wrong:
                self.error = wrong
        return None

    def complete(self) -> None:
        """What was put since `restart` is a whole state: let it take the image's place. Does not wait."""
        with self._changed:
            self._is_complete = True
            self._changed.notify_all()

    def give(self, then: Given) -> None:
        """Let the file be written by somebody else once all that was put is on the device, and no crash repeats it.

        Calls `then`, with what went wrong if anything did, in the thread; not after `take_back`.
        """
        with self._changed:
            error = self.error
            if error is None:
                self._given, self._runs = then, True
                self._is_lent = True
                self._changed.notify_all()
        if error is not None:
            then(error)

    def persist(self, then: Given) -> None:
        """Call `then` once a power cut loses nothing of what was put so far; with what went wrong, if anything did.

        It is called in the image's thread, or at once. What was put since `restart` is no state then, but does not have
        to be written when it becomes one. Else the label says by then where the file stands.
        """
        with self._changed:
            error = self.error
            if error is None:
                self._persists.append(then)
                self._changed.notify_all()
        if error is not None:
            then(error)

    def take_back(self, leave: Callable[[], None] | None = None) -> None:
        """The file was perhaps written by somebody else: have that on the device before the next step. Does not wait.

        leave  returns once that one is done with the file, or raises OSError; the thread waits for it
        """
        with self._changed:
            self._given, self._leave, self._is_unsynced = None, leave, True
            self._changed.notify_all()

    def status(self) -> os.stat_result | None:
        """Return what the system says of the file; None once it is closed."""
        with self._changed:
            return os.fstat(self.descriptor) if self.descriptor >= 0 else None

    def full_folder(self) -> Path | None:
        """Return the folder of the image, or of a device's files, if its file system is full."""
        with self._changed:
            place = self._held if self.is_device else self.descriptor
            return self._folder if place >= 0 and os.fstatvfs(place).f_bavail == 0 else None

    def sync(self, timeout: float = _SYNC_SECONDS) -> None:
        """Wait until all that was put is on the device. Raises OSError if it does not get there."""
        with self._changed:
            is_done = self._changed.wait_for(self._is_at_rest, timeout)
        if self.error is not None:
            raise self.error
        if not is_done:
            raise TimeoutError(f"nothing was written for {timeout:.0f} s")

    def close(self, *, is_clean: bool = False) -> None:
        """Write what waits, then let go of the file. Idempotent.

        is_clean  the device has all that the guest wrote, if it ran here
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(_SYNC_SECONDS)
        if self.descriptor >= 0 and not self._thread.is_alive():
            self._say_last(is_clean)
            self._labels.close()
            self._hashes.close(self.descriptor, is_good=self.error is None)
            self._drop_fresh()
            self._let_go()

    def _let_go(self) -> None:
        for descriptor in (self.descriptor, self._held):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._held = -1

    # --- the thread ------------------------------------------------------------------------------------------------

    def _has_work(self) -> bool:
        is_due = self._label_of(self._footing) is not None
        is_given = self._given is not None and self._moving is None
        is_asked = is_given or self._leave is not None or bool(self._persists)
        is_moving = self._moving is not None and not self._is_closed
        return bool(self._waiting) or self._begun is not None or self._is_complete or is_asked or is_due or is_moving

    def _has_begun(self) -> bool:
        return self.error is not None or (self._begun is None and not self._is_writing)

    def _is_at_rest(self) -> bool:
        return self.error is not None or not (self._has_work() or self._is_writing)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                rest = REST_SECONDS if self._is_still() and self._hashes.has_more() else None
                self._changed.wait_for(lambda: self._has_work() or self._is_closed, rest)
                if (is_resting := not self._has_work()) and self._is_closed:
                    return
                step, self._waiting = self._waiting, {}
                begun, self._begun = self._begun, None
                is_complete, self._is_complete = self._is_complete, False
                given, footing = self._given, self._footing
                leave, self._leave = self._leave, None
                self._is_lent = self._is_lent and (leave is None or given is not None)
                is_asked, is_due = bool(self._persists), self._label_of(footing) is not None
                is_needed = bool(step) or is_asked or is_due
                is_unsynced, self._is_unsynced = self._is_unsynced and is_needed, self._is_unsynced and not is_needed
                self._is_writing = True
            error: OSError | None = None
            try:
                if leave is not None:
                    leave()
                if is_unsynced:
                    os.fdatasync(self.descriptor)
                self._take(step, begun=begun, is_complete=is_complete)
                if self._fresh is not None and is_asked:
                    os.fdatasync(self._fresh.descriptor)
                if self._fresh is None or is_asked:
                    self._tell_durable()
                if given is not None:
                    self._drop_journal()
                    self._hashes.clear()
                if not self._is_copied():
                    self._labels.say(footing, runs=self._runs, has_stepped=bool(step))
                if self._is_still():
                    self._hashes.learn(self.descriptor, is_resting=is_resting, is_wanted=self._has_work)
                if self._moving is not None:
                    given = None  # the file is not whole yet
                    self._move()
            except OSError as wrong:
                error = with_cause(wrong, self._held, self._folder)
                self._say_unclean(wrong)
            self._tell(step, given, error)
            if error is not None:
                return

    def _is_still(self) -> bool:
        """Tell whether nobody but this thread writes to the image, which is whole."""
        return not (self._is_lent or self._runs or self._moving or self.error or self._is_copied())

    def _is_copied(self) -> bool:
        return self._fresh is not None or self._begun is not None  # the file is no longer what is put to

    def _label_of(self, footing: Footing | None) -> Label | None:
        """Return what is to be said of the file, which is at this footing, beside another epoch."""
        return None if self._is_copied() else self._labels.other(footing, runs=self._runs, epoch=self.label.epoch)

    def _say_last(self, is_clean: bool) -> None:
        """Write the last label."""
        label = (None if self._is_copied() else self._labels.other(self._footing, runs=self._runs)) or self.label
        if self._runs:
            label = replace(label, is_clean=is_clean)
        if self.error is not None or label == self.label:
            return
        try:
            os.fdatasync(self.descriptor)
            self._labels.write(label)
        except OSError as wrong:
            self.error = wrong

    def _say_unclean(self, wrong: OSError) -> None:
        """Have the label say that its device failed, if that still takes it: what it had may not be there any more."""
        if self._fresh is None and wrong.errno not in FULL:  # else the image is as it was
            with suppress(OSError):
                self._labels.write(replace(self.label, is_clean=False))

    def _tell_durable(self, error: OSError | None = None) -> None:
        """Tell who waits for it that all that was put is on the device, if it is; or why it never will be.

        An image that was the guest's, or grows, is synced before for who waits by then: later ones wait for the next
        turn, as do all for a label that is due: it tells which of two images has what is promised on this one's word.
        """
        with self._changed:
            error = error or self.error
            is_unsaid = self._label_of(self._footing) is not None
            if error is None and (self._waiting or self._is_unsynced or is_unsaid):
                return
            told, self._persists = self._persists, []
        for then in told:
            then(error)

    def _tell(self, step: dict[int, bytes], given: "Given | None", error: OSError | None) -> None:
        """Note what a turn of the thread has done."""
        with self._changed:
            self._written.update(step.keys() - self._waiting.keys())
            if error is not None:
                self.error, self._waiting, self._is_writing, given = error, {}, False, self._given
            is_due = given is not None and given is self._given
            if is_due:
                self._given = None
            self._changed.notify_all()
        if error is not None:
            self._tell_durable(error)
        if given is not None and is_due:
            given(error)

    def _take(self, step: dict[int, bytes], *, begun: Fresh | None, is_complete: bool) -> None:
        if begun is not None:
            if self._fresh is not None:
                self._fresh.close()  # it has no name any more
            self._fresh = begun
        if self._fresh is None:
            if step:
                self._apply(step)
            return
        self._fresh.write(step)
        if is_complete:
            self._publish(self._fresh)

    def _apply(self, step: dict[int, bytes]) -> None:
        self._hashes.forget(self.descriptor, (page // REGION_PAGES for page in step))
        is_new = not self._journal_path.exists()
        journal = os.open(self._journal_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_journal(journal, step)
            os.fdatasync(journal)
            if is_new:
                sync_directory(self._folder)
            self._tell_durable()
            write_pages(self.descriptor, step)
            os.fdatasync(self.descriptor)
            self._hashes.note_written(self.descriptor)
            if self._moving is not None:
                self._moving.passed_by(step)
            os.ftruncate(journal, 0)
        finally:
            os.close(journal)

    def _publish(self, fresh: Fresh) -> None:
        """Put the new file in the place of the old one, or have it moved to the device, unless another was begun
        meanwhile."""
        fresh.seal()
        if isinstance(fresh, DeviceCopy):
            os.fdatasync(self.descriptor)  # of what was kept there
        self._drop_journal()
        self._labels.write(self.label.blank())
        old: int | None = None
        with self._changed:
            if self._begun is not None:
                return
            self._hashes.clear()
            if isinstance(fresh, DeviceCopy):
                os.replace(self._fresh_path, self._stage_path)
                old = self._moving.descriptor if self._moving is not None else None  # a newer copy is whole
                self._moving = self._staged = fresh
            else:
                os.replace(self._fresh_path, self._place)
                old, self.descriptor = self.descriptor, fresh.descriptor
                self._labels.move_to(self.descriptor)
            self._fresh = None
        if old is not None:
            os.close(old)
        sync_directory(self._folder)

    def _move(self) -> None:
        """Move the next of a whole stage to the device."""
        stage = self._moving
        assert stage is not None
        if stage.move(self.descriptor):
            return
        self._stage_path.unlink()
        sync_directory(self._folder)
        with self._changed:
            self._moving = None
            if self._staged is not stage:
                stage.close()  # nobody shows it
            self._changed.notify_all()

    def _drop_staged(self) -> None:
        """Show no stage any more. Called with the lock."""
        staged, self._staged = self._staged, None
        if staged is not None and staged is not self._moving:
            staged.close()

    def _drop_journal(self) -> None:
        """Remove the journal, so that no crash repeats the last step: from now on the image is newer."""
        with suppress(FileNotFoundError):
            self._journal_path.unlink()
            sync_directory(self._folder)

    def _drop_fresh(self) -> None:
        fresh, self._fresh, self._begun = (self._fresh, self._begun), None, None
        for begun in fresh:
            if begun is not None:
                begun.close()
                self._fresh_path.unlink(missing_ok=True)
        for stage in (self._moving, self._staged):
            if stage is not None:
                stage.close()  # whoever opens the device next moves it
