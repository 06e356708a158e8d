"""With FTVM_TEST_HOOKS set, each machine of these tests runs under a debugger that wants to know everything.

Hooks must not show, so the tests must pass as they do without. `noting` has a breakpoint on each half-word and a watch
on all of memory, each noted; `counting` counts and traces as well, `marking` marks what is written.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ftvm._native import lib
from ftvm.guests.riscv.machine import RAM_BASE, Machine, StopReason
from ftvm.history.hooks import Counting, Hooks

from .stable import Stable

HOOKS = os.environ.get("FTVM_TEST_HOOKS", "")
JUMPS_MAX = 1 << 10


@pytest.fixture(autouse=True, scope="session")
def _hooks() -> Any:
    if HOOKS:
        hook_all(pytest.MonkeyPatch())


def hook_all(patch: pytest.MonkeyPatch) -> None:
    make = Machine._init

    def init(machine: Machine) -> Any:
        machine._machine = make(machine)
        hooks = Hooks(machine)
        hooks._breaks[:] = b"\xff" * len(hooks._breaks)
        machine.flush()
        assert hooks.set_watch(RAM_BASE, machine.shape.ram_bytes)
        kept: list[Any] = [hooks]
        if HOOKS == "counting":
            kept.append(Counting(machine, JUMPS_MAX, hooks._lost))
        if HOOKS == "marking":
            hooks.mark_writes()
        machine._kept_hooks = kept  # type: ignore[attr-defined]
        return machine._machine

    def run(machine: Machine, instructions: int, *, stop_at_output: bool = False, is_cached: bool = True) -> StopReason:
        options = lib.FTVM_RISCV_NOTE_HITS
        options |= lib.FTVM_RISCV_STOP_AT_OUTPUT if stop_at_output else 0
        options |= 0 if is_cached else lib.FTVM_RISCV_NO_CACHE
        return StopReason(lib.ftvm_riscv_run(machine._machine, instructions, options))

    patch.setattr(Machine, "_init", init)
    patch.setattr(Machine, "run", run)


@pytest.fixture
def stable() -> Iterator[Stable]:
    made = Stable()
    yield made
    for guest in made.guests:
        guest.close()
