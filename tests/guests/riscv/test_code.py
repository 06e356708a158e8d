"""The decoded code is coherent with memory: each way to change an instruction is seen by the next one executed."""

import ctypes
import mmap
import threading

import pytest

from ftvm.guests.riscv.machine import RAM_BASE, Machine, MachineShape, StopReason

from .assembly import LI_WORDS, SMALL, addi, booted, finish, jal, jalr, li, load, run_to_end, store, to_bytes

LOOP_AT = 0x1000


def looping(place: int, patch: bytes, *, size: int, offset: int) -> Machine:
    """Run `addi x10, x0, 1` at a place twice, overwriting a part of it in between."""
    patched = [*li(5, RAM_BASE + place + offset), *li(6, int.from_bytes(patch, "little")), store(6, 5, size=size)]
    once = [*li(7, RAM_BASE + place), jalr(1, 7)]
    words = [*once, *patched, *once, *finish()]
    machine = booted(words)
    machine.ram.write(place, to_bytes([addi(10, 0, 1), addi(12, 12, 1), jalr(0, 1)]))
    machine.flush()
    return machine


@pytest.mark.parametrize("place", [0x1000, 0x1002, 0x1FFC, 0x1FFE, 0x2000, 0x2FFE], ids=hex)
@pytest.mark.parametrize(
    ("offset", "patch"),
    [(0, addi(10, 0, 7).to_bytes(4, "little")), (2, addi(10, 0, 7).to_bytes(4, "little")[2:])],
    ids=["whole", "second half"],
)
def test_an_overwritten_instruction_is_executed_as_it_is_now(place: int, offset: int, patch: bytes) -> None:
    machine = looping(place, patch, size=len(patch), offset=offset)

    run_to_end(machine)

    assert machine.register(10) == 7
    assert machine.register(12) == 2


def test_a_store_right_before_an_instruction_changes_it() -> None:
    """No fence: the machine is more coherent than it must be, so that the cache cannot show."""
    target = 4 * (11 + 11 + 1)
    words = [*li(5, RAM_BASE + target), *li(6, addi(10, 0, 9)), store(6, 5, size=4), addi(10, 0, 1), *finish()]
    machine = booted(words)

    run_to_end(machine)

    assert machine.register(10) == 9


def test_code_that_came_from_outside_is_executed_after_a_flush() -> None:
    machine = booted([addi(10, 10, 1), jal(0, -4)])
    machine.run(10)

    machine.ram.write(0, to_bytes([addi(10, 10, 100)]))
    machine.flush()
    machine.run(2)

    assert machine.register(10) == 105


def test_more_code_than_the_cache_holds_still_runs() -> None:
    """Three hundred pages of code, each one jump: the cache of 256 pages is emptied on the way, twice over."""
    pages = 300
    shape = MachineShape(ram_bytes=(pages + 16) * 4096)
    machine = booted([jal(0, 4096)], shape=shape)
    for page in range(1, pages):
        machine.ram.write(page * 4096, to_bytes([addi(10, 10, 1), jal(0, 4096 - 4)]))
    machine.ram.write(pages * 4096, to_bytes([*li(5, RAM_BASE), jalr(0, 5)]))
    machine.flush()

    stop = machine.run(2 * (1 + 2 * (pages - 1) + LI_WORDS + 1))

    assert stop is StopReason.LIMIT
    assert machine.register(10) == 2 * (pages - 1)


def hopping(ram_bytes: int) -> Machine:
    """Return a machine whose program jumps for ever through one page more than the cache holds."""
    pages = 257
    machine = booted([jal(0, 4096)], shape=MachineShape(ram_bytes=ram_bytes))
    for page in range(1, pages):
        machine.ram.write(page * 4096, to_bytes([jal(0, 4096)]))
    machine.ram.write(pages * 4096, to_bytes([*li(5, RAM_BASE), jalr(0, 5)]))
    machine.flush()
    return machine


def resident_pages(memory: mmap.mmap) -> int:
    """Return how many pages of an anonymous map were ever touched."""
    size = len(memory)
    held = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    assert mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), held) == 0
    return sum(page & 1 for page in held)


def test_forgetting_all_code_walks_the_pages_that_had_some_and_not_all_of_memory() -> None:
    """The tables have nine bytes for each page of memory, 576 pages here: those of its far end stay untouched."""
    cache_pages = 256 * 8 + 4  # a decoded page takes a little more than eight
    machine = hopping(1 << 30)

    machine.run(2_000)
    machine.flush()

    assert cache_pages <= resident_pages(machine._state) < cache_pages + 100


def test_a_program_in_very_many_pages_is_stopped_before_it_filled_the_cache_twice() -> None:
    machine = hopping(4 << 20)
    runner = threading.Thread(target=machine.run, args=(1 << 40,))
    runner.start()
    while machine.position.retired < 5_000:
        pass

    machine.stop()
    seen = machine.position.retired
    runner.join()

    assert machine.position.retired - seen <= 2 * 257


def test_a_page_of_code_and_data_is_reported_dirty_for_the_data() -> None:
    words = [*li(5, RAM_BASE + 0x800), store(5, 5), load(6, 5), store(5, 5, 8), jal(0, -12)]
    machine = booted(words)
    machine.run(100)
    machine.ram.take_dirty()

    machine.run(100)

    assert machine.ram.take_dirty()[0] & 1
    assert machine.register(6) == RAM_BASE + 0x800
    assert SMALL.ram_bytes > 0x800


def test_an_instruction_across_the_end_of_memory_is_a_fetch_fault_at_the_end() -> None:
    end = RAM_BASE + SMALL.ram_bytes
    handler = 4 * (11 + 1 + 11 + 1)
    words = [*li(5, RAM_BASE + handler), 0x30529073, *li(5, end - 2), jalr(0, 5), *finish()]
    machine = booted(words)
    machine.ram.write(SMALL.ram_bytes - 2, b"\x13\x00")
    machine.flush()

    run_to_end(machine)

    assert (machine.csr(0x342), machine.csr(0x343), machine.csr(0x341)) == (1, end, end - 2)
