"""The show-piece: 20 ms of a Linux kernel, every instruction counted, and counted once more another way."""

import os
from pathlib import Path

import pytest

from ftvm.guests.riscv.machine import MachineShape, StopReason
from ftvm.history.coverage import cover
from ftvm.history.picture import save_picture
from ftvm.history.recording import Recording
from ftvm.history.timeline import TimeMachine

from .past import recorded

FIRST, LAST = 11_500_000, 13_500_000
"""Where it leaves its self-tests, finds its devices, and starts its first process."""


@pytest.fixture(scope="module")
def folder() -> Path:
    if "FTVM_LINUX" not in os.environ:
        pytest.skip("needs the Linux guest: FTVM_LINUX=FOLDER, after python3 examples/linux/build.py FOLDER")
    return Path(os.environ["FTVM_LINUX"])


@pytest.fixture(scope="module")
def kernel(folder: Path) -> Path:
    return next(folder.glob("linux-source-*")) / "vmlinux"


@pytest.fixture(scope="module")
def boot(folder: Path) -> Recording:
    machine = recorded((folder / "linux.elf").read_bytes(), MachineShape())
    while machine.position.retired < LAST:
        stop = machine.run(LAST - machine.position.retired)
        machine.take_outputs()
        if stop is StopReason.IDLE and (ticks := machine.idle_max()) is not None:
            machine.idle(ticks)
    return machine.recording()


def test_the_kernels_counts_agree_with_a_second_count(boot: Recording, kernel: Path, tmp_path: Path) -> None:
    with TimeMachine(boot, program=kernel) as past:
        seen = cover(past, FIRST, LAST)
        save_picture(seen, tmp_path / "linux.html")
        hottest = sorted(seen.functions, key=lambda run: run.entries)[-20:]
        again = {}
        for run in hottest:
            past.go(FIRST)
            past.set_break(run.function.address)
            past.hooks.take_hit()
            past.hooks.replay(past._log, past.moment.inputs, until=LAST, on_hits="note")
            hit = past.hooks.take_hit()
            again[run.function.name] = hit.count if hit is not None else 0
            past.clear_hooks()

    assert sum(run.instructions for run in seen.functions) == LAST - FIRST
    assert again == {run.function.name: run.entries for run in hottest}
    assert len(seen.functions) > 500
    names = {run.function.name for run in seen.functions}
    assert {"schedule", "kernel_init", "printk"} & names or {"vprintk_emit"} & names


def test_the_kernel_goes_back_to_what_it_was(boot: Recording) -> None:
    with TimeMachine(boot) as past:
        past.go(LAST - 1_000)
        before = [past.register(number) for number in range(33)]
        past.go(LAST)
        for _ in range(1_000):
            past.step_back()

        assert [past.register(number) for number in range(33)] == before
