"""An image of some regions, and what is known of it without reading it."""

import os
from pathlib import Path

import pytest
import xxhash

from ftvm.guests.disk import image as image_module
from ftvm.guests.disk.hashes import REGION_PAGES
from ftvm.guests.disk.image import Image
from ftvm.units import PAGE_BYTES

from .test_disk import wait_until

PAGES = 2 * REGION_PAGES + 8
SIZE = PAGES * PAGE_BYTES
FIRST = 1000
"""The number that the disk's first page has in its guest."""
UNKNOWN = b"\xff" * 16
ALL = set(range(PAGES))
REGION_BYTES = REGION_PAGES * PAGE_BYTES


def hash_of(content: bytes, page: int, first: int = FIRST) -> bytes:
    piece = content[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
    return xxhash.xxh3_128_intdigest(piece, seed=first + page).to_bytes(16, "little")


def known_pages(image: Image) -> dict[int, bytes]:
    """Return the hash of each page that is known without a look."""
    found = image.hashes(0, PAGES) or UNKNOWN * PAGES
    each = {page: found[16 * page : 16 * page + 16] for page in range(PAGES)}
    return {page: told for page, told in each.items() if told != UNKNOWN}


def require_true(image: Image) -> dict[int, bytes]:
    """Return what is known of an image, which is what it has."""
    known, content = known_pages(image), os.pread(image.descriptor, SIZE, 0)
    for page, told in known.items():
        assert told == hash_of(content, page), f"page {page} is not what is known of it"
    return known


def region(number: int) -> set[int]:
    return set(range(number * REGION_PAGES, min(PAGES, (number + 1) * REGION_PAGES)))


def opened(path: Path, *, boots: bool = False, first: int = FIRST) -> Image:
    image = Image(path, boots=boots)
    image.place_at(first)
    return image


def put(image: Image, page: int, fill: int) -> None:
    image.put_copies({page: bytes([fill]) * PAGE_BYTES})
    image.sync()


def knows_all(image: Image) -> bool:
    return known_pages(image).keys() == ALL


def side(path: Path) -> Path:
    return path.with_name(path.name + ".hashes")


def rest(image: Image) -> None:
    """Wait until an image has learned all that it can."""
    wait_until(lambda: not image._hashes.has_more())


def learn(path: Path) -> Path:
    """Have a host stand by with an image, learn all of it, and end in order."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(image_module, "REST_SECONDS", 0.001)
        image = opened(path)
        wait_until(lambda: knows_all(image))
        image.close()
    return path
