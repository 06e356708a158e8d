"""Looks through a table of log records in one call. Wraps the native noun `logtable` (its header is the manual)."""

from typing import Any

from ftvm._native import ffi, lib

__all__ = ["check_rows"]


def check_rows(rows: Any, count: int, channels: int, payload_bytes: int) -> tuple[int, int]:
    """Return the place of the first row that cannot be, and the bytes of payload that the rows before it leave.

    It is `count` if all of them can be.
    """
    left = ffi.new("size_t *")
    place = lib.ftvm_logtable_check(ffi.from_buffer("uint8_t[]", rows), count, channels, payload_bytes, left)
    return int(place), int(left[0])
