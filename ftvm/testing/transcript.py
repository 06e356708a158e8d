"""A sink that keeps all that a guest said and took, and pictures of guests to compare.

It stands in for ftvm where a kit runs a guest by itself: nothing is held and nothing leaves.
"""

from dataclasses import dataclass, field
from typing import Final

from ftvm.checkpoint import Buffer, GuestPosition, LogKind, LogRecord
from ftvm.interfaces import Guest, Region
from ftvm.units import PAGE_BYTES

__all__ = ["Picture", "Said", "Transcript", "changed_pages", "fill_region", "load_picture", "take_picture"]


@dataclass(frozen=True, slots=True)
class Said:
    """One output, as the guest gave it."""

    channel: str
    payload: bytes
    position: GuestPosition | None


class Transcript:
    """See OutputSink. `log` holds inputs and clock steps, in order with the outputs' places in `said`."""

    def __init__(self) -> None:
        self.said: list[Said] = []
        self.log: list[LogRecord] = []

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        """Keep an output."""
        self.said.append(Said(channel, bytes(payload), position))

    def took_input(self, position: GuestPosition, channel: str, payload: bytes) -> None:
        """Keep an input."""
        index = len(self.log) + 1
        self.log.append(
            LogRecord(index=index, kind=LogKind.INPUT, position=position, channel=channel, payload=bytes(payload))
        )

    def want_cut(self) -> None:
        """Keep no wish: whoever drives the guest cuts when it will."""

    def warn(self, reason: str) -> None:
        """Keep no warning: it is for an operator."""
        del reason

    def may_wait(self, reason: str) -> bool:
        """Let it wait for as long as it likes."""
        return bool(reason)

    def moved_clock(self, position: GuestPosition, amount: int) -> None:
        """Keep a step of the clock."""
        self.log.append(LogRecord(index=len(self.log) + 1, kind=LogKind.CLOCK, position=position, amount=amount))


@dataclass(frozen=True, slots=True)
class Picture:
    """All that a paused guest is: the bytes of each region, and its devices."""

    regions: tuple[bytes, ...] = field(repr=False)
    devices: bytes = field(repr=False)


def take_picture(guest: Guest) -> Picture:
    """Copy a paused guest."""
    devices = guest.save_devices()
    return Picture(tuple(bytes(region.buffer) for region in guest.memory), devices)


def fill_region(region: Region, content: Buffer) -> None:
    """Put a first copy into a region of a paused guest, as a backup does."""
    if region.store is not None:
        region.store.discarded()
    region.buffer[:] = content
    if region.store is not None:
        region.store.committed(range(region.page_count))
        region.store.completed()


def load_picture(guest: Guest, picture: Picture) -> None:
    """Make a paused guest what the picture shows."""
    for region, content in zip(guest.memory, picture.regions, strict=True):
        fill_region(region, content)
    guest.load_devices(picture.devices)


_ZERO_PAGE: Final = bytes(PAGE_BYTES)


def changed_pages(before: bytes | None, after: bytes) -> list[int]:
    """Return the pages of a region that differ; with no `before`, those that are not zero."""
    if before == after:
        return []
    return [
        at // PAGE_BYTES
        for at in range(0, len(after), PAGE_BYTES)
        if after[at : at + PAGE_BYTES] != (_ZERO_PAGE if before is None else before[at : at + PAGE_BYTES])
    ]
