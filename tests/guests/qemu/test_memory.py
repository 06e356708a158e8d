"""Memory that QEMU has in its hands, too, and could do anything to."""

import os

import pytest

from ftvm.guests.qemu.memory import SharedMemory


@pytest.mark.parametrize("size_bytes", [0, 4096, 1 << 20])
def test_memory_that_another_process_holds_can_be_neither_shrunk_nor_grown(size_bytes: int) -> None:
    memory = SharedMemory("ram", 8192)
    theirs = os.open(f"/proc/self/fd/{memory.descriptor}", os.O_RDWR)

    with pytest.raises(PermissionError):
        os.ftruncate(theirs, size_bytes)

    memory.buffer[8191] = 7
    assert os.pread(theirs, 1, 8191) == b"\7"
    os.close(theirs)
    memory.close()
