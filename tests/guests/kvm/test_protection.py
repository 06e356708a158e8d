"""A program on the processor lives on when its host dies, or when it fails there: no line twice, lost or changed."""

import os
import re
from pathlib import Path

import pytest

from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import GuestError
from ftvm.units import Nanos

from ...runtime.live import PATIENCE_S, Ear, kill, start_pair
from .conftest import MakeWork, processors

MS = 1_000_000
TIMING = Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(1_000 * MS), primary_limit_ns=Nanos(3_000 * MS))
MASK = 2**64 - 1


def work_sums(count: int) -> list[str]:
    """Compute what `work` tells of its memory (examples/kvm/work): the sums of its first lines."""
    blocks, value, sums = [[0] * 512 for _ in range(64)], 1, []
    for number in range(1, count + 1):
        for word in range(512):
            value ^= value << 13 & MASK
            value ^= value >> 7
            value ^= value << 17 & MASK
            blocks[number % 64][word] = value
        total = 0
        for block in blocks:
            for each in block:
                total = (total ^ each) * 0x100000001B3 & MASK
        sums.append(hex(total))
    return sums


class WorkEar(Ear):
    """Hears how far the program `work` counts."""

    def numbers(self) -> list[int]:
        return [int(number) for number in re.findall(r"work: (\d+) sum 0x[0-9a-f]+\n", self.text())]

    def wait_more(self, count: int) -> None:
        """Wait until it has counted so much further."""
        number = sum(self.numbers()[-1:]) + count
        self.wait_until(lambda _: self.numbers()[-1:] >= [number])


@pytest.mark.parametrize("engine", ["remus", "kemari"])
def test_a_program_goes_on_where_its_host_died(engine: str, make_work: MakeWork, tmp_path: Path) -> None:
    ear = WorkEar()
    blank = make_work()
    primary, standby = start_pair(
        make_work(), blank, tmp_path, engine=engine_named(engine, 0.05), timing=TIMING, ear=ear
    )
    with standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_more(20)

        kill(primary)
        assert standby.wait(PATIENCE_S) is not None
        ear.wait_more(100)

    numbers, sums = ear.numbers(), re.findall(r"sum (0x[0-9a-f]+)", ear.text())
    assert numbers == list(range(1, numbers[-1] + 1))
    assert sums == work_sums(len(sums))


def test_a_guest_that_kvm_fails_is_taken_over_and_its_host_says_why(make_work: MakeWork, tmp_path: Path) -> None:
    ear = WorkEar()
    others = processors()
    booted = make_work()
    (processor,) = processors() - others
    primary, standby = start_pair(
        booted, make_work(), tmp_path, engine=engine_named("remus", 0.05), timing=TIMING, ear=ear
    )
    with standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_more(20)

        with open("/dev/null", "r+b", buffering=0) as no_processor:
            os.dup2(no_processor.fileno(), processor, inheritable=False)
        assert standby.wait(PATIENCE_S) is not None
        ear.wait_more(20)

        with pytest.raises(GuestError, match=r"KVM_RUN failed: Inappropriate ioctl|KVM does not tell"):
            primary.wait(PATIENCE_S)
        primary.close()
    numbers = ear.numbers()
    assert numbers == list(range(1, numbers[-1] + 1))


def test_a_host_with_another_processor_is_refused_with_both_shown(make_work: MakeWork, tmp_path: Path) -> None:
    ear = WorkEar()
    booted, blank = make_work(), make_work()
    blank._machine.cpu = "GenuineIntel-6-143-8/0123456789abcdef"
    primary, standby = start_pair(booted, blank, tmp_path, engine=engine_named("remus", 0.05), timing=TIMING, ear=ear)
    with primary:
        with pytest.raises(Exception, match="GenuineIntel-6-143-8/0123456789abcdef") as refused:
            standby.wait(PATIENCE_S)
        standby.close()

        assert f"cpu={booted._machine.cpu}" in str(refused.value)
        ear.wait_more(3)
