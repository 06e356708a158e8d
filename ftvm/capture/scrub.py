"""Finds pages that tracking missed: compares all of memory with the shadow, a little at a time, while the guest runs.

A page that was written but never reported stays different from its shadow for ever. A look finds the pages that
differ; those are suspects only, for the guest may just have written them. At the next cut, with the guest paused and
its dirty pages collected, a suspect that is not among them and still differs was missed. It costs no pause: a pause
looks only at the suspects.
"""

from array import array

from ftvm._native import ffi, lib
from ftvm._native.bitmap import bitmap_indices
from ftvm._native.memory import NativeMemory
from ftvm.capture.shadow import Shadow
from ftvm.checkpoint import Bitmap
from ftvm.errors import ConfigError

__all__ = ["Scrub"]


class Scrub:
    """One guest's scrub. A round over all pages takes page_count / pages_per_look looks."""

    __slots__ = ("_found", "_memory", "_next", "_shadow", "_suspects", "pages_per_look", "rounds")

    def __init__(self, memory: NativeMemory, shadow: Shadow, *, pages_per_look: int) -> None:
        """Compare `pages_per_look` pages a look: about 0.3 us each, of a core and of memory bandwidth."""
        if memory.page_count != shadow.page_count:
            raise ConfigError(f"memory has {memory.page_count} pages and its shadow {shadow.page_count}")
        if pages_per_look <= 0:
            raise ConfigError("a scrub must look at one page or more")
        self._memory = memory
        self._shadow = shadow
        self.pages_per_look = min(pages_per_look, shadow.page_count)
        self.rounds = 0
        self._next = 0
        self._found = array("I", bytes(4 * self.pages_per_look))
        self._suspects: array[int] = array("I")

    def look(self) -> int:
        """Compare the next pages; the guest may run. Returns how many are suspects until the next `judge`.

        Between two calls of `judge` at most one look counts: a second one replaces the suspects of the first.
        """
        self._suspects = self._differing(self._next, self.pages_per_look)
        self._next += self.pages_per_look
        if self._next >= self._shadow.page_count:
            self._next = 0
            self.rounds += 1
        return len(self._suspects)

    def judge(self, dirty: Bitmap) -> "array[int]":
        """Return the suspects that tracking missed.

        Call with the guest paused, after `collect_dirty` gave `dirty` and before the capture brings the shadow up to
        date.
        """
        suspects, self._suspects = self._suspects, array("I")
        if not suspects:
            return suspects
        reported = set(bitmap_indices(dirty))
        return array("I", [page for page in suspects if page not in reported and self._differing(page, 1)])

    def _differing(self, first: int, count: int) -> "array[int]":
        cells = ffi.from_buffer("uint32_t[]", self._found)
        found = lib.ftvm_capture_differing(self._memory.native, self._shadow.native, first, count, cells)
        return self._found[:found]
