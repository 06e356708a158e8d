"""When the first copy stops iterating (Clark et al., live migration, 2005, section 3.2: pre-copy with a bounded end).

Round 1 sends every page; each later round sends what was written during the one before. The last pages are cut in one
pause. Rounds end when the rest is small, when it no longer shrinks (the guest writes faster than the link ships), or
when there were too many.
"""

from dataclasses import dataclass

from ftvm.config import Limits

__all__ = ["CopyPlan"]


@dataclass(slots=True)
class CopyPlan:
    """Where the first copy stands. `left` is what of the present round is not yet encoded."""

    round: int = 0
    pages: int = 0
    left: int = 0
    is_collecting: bool = True
    pages_sent: int = 0

    def collected(self, pages: int, limits: Limits) -> bool:
        """Take note of a round's size; return whether it is to be the last, cut in one pause."""
        is_last = self.round > 0 and (
            pages <= limits.copy_rest_pages or pages * 10 >= self.pages * 9 or self.round >= limits.copy_rounds
        )
        self.round += 1
        self.pages = self.left = pages
        self.is_collecting = False
        return is_last

    def copied(self, left: int) -> None:
        """Note that batches were encoded and `left` pages of the round remain."""
        self.pages_sent += self.left - left
        self.left = left
