"""The two-host harness: any guest, any store of records; its links can be cut, and its hosts killed."""

from collections.abc import Callable
from pathlib import Path

import pytest

import ftvm
from ftvm.arbiters.file import FileRecordStore
from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.interfaces import Guest, RecordStore
from ftvm.protocol.view import Role
from ftvm.testing.pair import HASTY, Pair, sim_guest


def riscv_guest(boots: bool) -> ftvm.RiscvGuest:
    program = ftvm.read_program("ticks") if boots else None
    return ftvm.RiscvGuest(program, clock=ftvm.MonotonicClock(), memory_bytes=1 << 20, command_line="ms=1 beats=0")


@pytest.mark.parametrize("guest", [sim_guest, riscv_guest])
@pytest.mark.parametrize("store", [lambda _: MemoryRecordStore(), FileRecordStore], ids=["memory", "file"])
def test_a_guest_lives_on_where_its_host_is_killed_and_a_new_one_joins(
    guest: Callable[[bool], Guest], store: Callable[[Path], RecordStore], tmp_path: Path
) -> None:
    pair = Pair(guest=guest, store=store(tmp_path), timing=HASTY).protected(20)

    pair.kill(pair.a)
    pair.until(lambda: pair.b.role is Role.ACTIVE)
    pair.boot("a", "b")
    pair.until(lambda: pair.record().standby == "a2")

    assert pair.a.role is Role.STANDBY
    assert pair.alive == [pair.b, pair.a]
    pair.close()


def test_what_a_host_that_is_cut_off_sends_is_lost_until_the_link_is_healed() -> None:
    pair = Pair(timing=HASTY).protected(20)

    pair.cut_off("a")
    pair.until(lambda: pair.record().active == "b1")
    pair.heal()
    pair.until(lambda: pair.record().standby == "a2")

    assert [host.role for host in (pair.a, pair.b)] == [Role.STANDBY, Role.ACTIVE]
    pair.close()
