"""Runs a program on the built-in machine by itself, to its end or to a limit: unprotected, and without a clock.

Promises: the same program, disk and input give the same result to the last bit, as time is counted in instructions and
passes at once while the program waits. With a cable (`Cable`) frames come when they come, and that promise ends.
Knows neither files nor the command line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import xxhash

from ftvm.guests.riscv.machine import EndedBy, Machine, StopReason

__all__ = ["Cable", "Exit", "Result", "run_standalone"]

_RUN_INSTRUCTIONS: Final = 1_000_000
_CABLE_LOOK_TICKS: Final = 1_000_000
"""How much of the machine's time (10 ms) a wait for the cable may take before it is looked at again."""
_FRAMES_PER_LOOK: Final = 64

Exit = Literal["pass", "fail", "finisher", "limit", "fault", "waits"]
"""How a run ended: the program reported success or failure by its HTIF word; used the finisher; the limit of
instructions was reached; it trapped with no handler; or it waits for what will never come."""


class Cable(Protocol):
    """The network, if there is one: frames out, frames in. `wait` blocks until one may have come, at most so long."""

    def send(self, frame: bytes) -> None:
        """Let a frame out."""
        ...

    def receive(self, limit: int) -> Sequence[bytes]:
        """Return up to `limit` frames that have come."""
        ...

    def wait(self, ticks: int) -> int:
        """Wait for frames, at most `ticks` of the machine's time; return how many have passed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a run. `digest` is XXH3-128 over the state, the memory and the disk at its end."""

    exit: Exit
    code: int
    retired: int
    digest: str


def run_standalone(
    machine: Machine,
    *,
    say: Callable[[bytes], None],
    keys: bytes = b"",
    instructions_max: int | None = None,
    cable: Cable | None = None,
) -> Result:
    """Run a booted machine; `say` takes what it prints, `keys` is typed as fast as it reads."""
    waiting_keys = bytearray(keys)
    while True:
        if waiting_keys:
            del waiting_keys[: machine.receive_console(bytes(waiting_keys))]
        if cable is not None:
            _take_frames(machine, cable)
        left = _RUN_INSTRUCTIONS if instructions_max is None else instructions_max - machine.position.retired
        stop = machine.run(min(left, _RUN_INSTRUCTIONS), stop_at_output=True)
        _emit(machine, say, cable)
        ending = _ending(machine, stop, instructions_max)
        if ending is None and stop is StopReason.IDLE and not waiting_keys and not _pass_time(machine, cable):
            ending = "waits"
        if ending is not None:
            return Result(
                exit=ending, code=machine.exit_code, retired=machine.position.retired, digest=_digest(machine)
            )


def _ending(machine: Machine, stop: StopReason, instructions_max: int | None) -> Exit | None:
    if stop is StopReason.FINISHED and machine.ended_by is EndedBy.TOHOST:
        return "pass" if machine.exit_code == 0 else "fail"
    if stop is StopReason.FINISHED:
        return "finisher"
    if stop is StopReason.STUCK:
        return "fault"
    is_over = instructions_max is not None and machine.position.retired >= instructions_max
    return "limit" if stop is StopReason.LIMIT and is_over else None


def _take_frames(machine: Machine, cable: Cable) -> None:
    for frame in cable.receive(_FRAMES_PER_LOOK):
        machine.receive_frame(frame)  # dropped where it has no room, as on a real network


def _emit(machine: Machine, say: Callable[[bytes], None], cable: Cable | None) -> None:
    for output in machine.take_outputs():
        if output.channel == "console":
            say(output.payload)
        elif cable is not None:
            cable.send(output.payload)


def _pass_time(machine: Machine, cable: Cable | None) -> bool:
    """Let the waiting machine's time pass; return False if it waits for what can never come."""
    ticks = machine.idle_max()
    if cable is not None:
        most = _CABLE_LOOK_TICKS if ticks is None else min(ticks, _CABLE_LOOK_TICKS)
        machine.idle(min(cable.wait(most), most))
        return True
    if ticks is None:
        return False
    machine.idle(ticks)
    return True


def _digest(machine: Machine) -> str:
    state = xxhash.xxh3_128(machine.save())
    state.update(machine.ram.buffer)
    if machine.disk is not None:
        state.update(machine.disk.buffer)
    return state.hexdigest()
