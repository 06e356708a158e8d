"""A program: takes batches whose arrays end where readable memory ends, so that whoever reads behind them is killed.

Reads a list of batches from its input, [indices, lengths, payload] in hexadecimal digits; verifies and commits each on
four fresh pages, and prints what became of it. Runs by itself, as a read too far ends it.
"""

import ctypes
import json
import mmap
import sys

from ftvm._native.memory import NativeMemory, batch_digest
from ftvm.checkpoint import PageBatch
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import RemoteProtocolError
from ftvm.units import PAGE_BYTES

LIBC = ctypes.CDLL(None, use_errno=True)
MAPS: list[mmap.mmap] = []


def at_the_edge(content: bytes) -> memoryview:
    """Return a copy of the bytes, the last one of which is the last that may be read."""
    size = -(-max(len(content), 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    room = mmap.mmap(-1, size + mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    MAPS.append(room)  # for as long as the program runs
    room[size - len(content) : size] = content
    behind = ctypes.addressof(ctypes.c_char.from_buffer(room)) + size
    if LIBC.mprotect(ctypes.c_void_p(behind), mmap.PAGESIZE, 0) != 0:
        raise OSError(ctypes.get_errno(), "the page behind cannot be closed")
    return memoryview(room)[size - len(content) : size]


def what_becomes_of(parts: list[bytes]) -> str:
    committed = CommittedMemory(NativeMemory([bytearray(4 * PAGE_BYTES)]))
    indices, lengths, payload = map(at_the_edge, parts)
    batch = PageBatch(
        count=len(lengths) // 2, indices=indices, lengths=lengths, payload=payload, digest=batch_digest(*parts)
    )
    try:
        committed.verify([batch], None)
        committed.commit([batch])
    except RemoteProtocolError as wrong:
        return f"refused: {wrong}"
    return "taken"


for batch in json.load(sys.stdin):
    print(what_becomes_of([bytes.fromhex(part) for part in batch]), flush=True)
