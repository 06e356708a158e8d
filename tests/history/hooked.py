"""A machine of the tests of hooks: run, advanced past its hits, and compared."""

import pytest
import xxhash

from ftvm._native import lib
from ftvm.guests.riscv.machine import Machine, StopReason
from ftvm.history.hooks import InputLog

from ..guests.riscv.assembly import addi, jal

NOTE, STOP, PLAIN = lib.FTVM_RISCV_NOTE_HITS, lib.FTVM_RISCV_STOP_AT_HITS, lib.FTVM_RISCV_NO_CACHE

cached_or_not = pytest.mark.parametrize("how", [0, PLAIN], ids=["cached", "plain"])
LOOP = [addi(1, 1, 1), addi(2, 2, 1), jal(0, -8)]
NO_LOG = InputLog([])


def run(machine: Machine, instructions: int, options: int) -> StopReason:
    return StopReason(lib.ftvm_riscv_run(machine.native, instructions, options))


def fingerprint(machine: Machine) -> str:
    memory = xxhash.xxh3_128(machine.save())
    memory.update(machine.ram.buffer)
    memory.update(machine.disk.buffer if machine.disk is not None else b"")
    return memory.hexdigest()


def advance(machine: Machine, until: int, options: int = 0) -> list[tuple[str, bytes]]:
    """Run to a retired count, passing each hit and letting time go by while the hart waits; return the outputs."""
    outputs: list[tuple[str, bytes]] = []
    while machine.position.retired < until:
        stop = run(machine, until - machine.position.retired, options)
        outputs += [(output.channel, output.payload) for output in machine.take_outputs()]
        if stop is StopReason.HIT:
            lib.ftvm_debug_pass(machine.native)
        elif stop is StopReason.IDLE and (ticks := machine.idle_max()) is not None:
            machine.idle(ticks)
        elif stop is not StopReason.LIMIT:
            break
    return outputs
