"""``ftvm demo``: watch a virtual machine survive its host, on this machine, with nothing to set up."""

import contextlib
import json
import os
import sys
import tempfile
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from ftvm.cli.kinds import KINDS
from ftvm.cli.signals import Stopped
from ftvm.engines.names import ENGINES, engine_named, require
from ftvm.errors import ConfigError, FtvmError
from ftvm.guests.kvm.machine import check_device
from ftvm.guests.riscv.programs import SUMMARIES, open_program
from ftvm.history.coverage import cover
from ftvm.history.history import History
from ftvm.history.picture import save_picture
from ftvm.history.stored import StoredPast
from ftvm.history.timeline import TimeMachine
from ftvm.lab.demo import DemoOptions, Outcome, Screen, run
from ftvm.lab.qemuimage import make_image
from ftvm.lab.screen import LiveScreen, PlainScreen, SilentScreen, summary
from ftvm.lab.stage import HostCommands
from ftvm.store.store import CATALOGUE

__all__ = ["demo"]

_DRAWN_INSTRUCTIONS: Final = 2_000_000
"""At most so many are executed again: at least 20 ms of the guest's time."""


@click.command()
@click.option("--kills", default=2, show_default=True, type=click.IntRange(min=1), help="How many hosts to kill.")
@click.option("--interval", default=25.0, show_default=True, metavar="MS", help="Time between checkpoints.")
@click.option("--latency", type=float, metavar="MS", help="Adapt the interval to a latency target (remus).")
@click.option("--seconds", type=float, metavar="S", help="Bound of the time under load.  [default: 20 for each kill]")
@click.option("--engine", default="remus", show_default=True, metavar="NAME", help=f"One of: {', '.join(ENGINES)}.")
@click.option(
    "--guest",
    type=click.Choice(["kv", "linux", "qemu"]),
    default="kv",
    show_default=True,
    help="What runs. linux: build it first, see examples/linux/README.md. qemu: a stock Linux under a stock QEMU.",
)
@click.option(
    "--kind",
    type=click.Choice(["riscv", "kvm"]),
    default="riscv",
    show_default=True,
    help="What runs the key-value server: the built-in RISC-V machine, or this processor, by KVM.",
)
@click.option("--seed", default=1, show_default=True, help="Chooses the requests and the moments of the kills.")
@click.option(
    "--history",
    is_flag=False,
    flag_value="",
    metavar="[FOLDER]",
    help="Have each host record the guest's past in FOLDER, a new one if none is named; it stays.",
)
@click.option("--json", "as_json", is_flag=True, help="Show nothing; print one JSON object at the end.")
def demo(
    kills: int,
    interval: float,
    latency: float | None,
    seconds: float | None,
    engine: str,
    guest: str,
    kind: str,
    seed: int,
    history: str | None,
    as_json: bool,
) -> None:
    """Kill the host of a running virtual machine, again and again, and lose nothing.

    Starts two hosts, an arbiter, a network switch and a client on this machine. The guest is a key-value server, a
    program compiled for RISC-V or for this processor, or a Linux that does the same; the client asks it without a
    pause and remembers every answer. The host of the guest is killed with SIGKILL in the middle, the other takes over,
    a new standby is brought up, and again; with --guest qemu what is killed is in turn the host, its QEMU, and both. At
    the end the whole history is checked: every acknowledged PUT is there, no answer contradicts another, the guest was
    never rebooted.

    Exit status: 0 if nothing was lost and every kill was survived, 1 if not, 2 for a wrong option.
    """
    # The hosts would refuse it, too, but only after they were started.
    chosen = engine_named(engine, interval / 1000, None if latency is None else latency / 1000)
    require(chosen, KINDS["qemu" if guest == "qemu" else kind].can)
    past = _history_folder(history)
    hosts = HostCommands(engine=engine, interval_ms=interval, latency_ms=latency, history=past, **_guest(guest, kind))
    options = DemoOptions(kills=kills, seconds=seconds, seed=seed, hosts=hosts)
    try:
        outcome = _play(options, as_json)
    except Stopped as stopped:
        click.echo(f"ftvm demo: stopped by {stopped}; all its processes are ended", err=True)
        raise
    if past is not None and not as_json:
        _say_where(Path(past))
        if kind == "riscv" and guest != "qemu":
            _draw(Path(past), hosts.guest)
    sys.exit(0 if outcome.is_good else 1)


def _guest(name: str, kind: str) -> dict[str, Any]:
    """Return what HostCommands must know to start that guest; raises ConfigError if it cannot be started here."""
    if kind == "kvm":
        if name != "kv":
            raise ConfigError(f"--kind kvm runs the key-value server: leave out --guest {name}")
        check_device()
        return {"guest": name, "kind": kind}
    if name == "linux":
        return {"guest": _linux()}
    if name == "qemu":
        return {"guest": "qemu", "memory": "256M", "qemu_arguments": make_image().arguments()}
    return {"guest": name}


def _history_folder(named: str | None) -> str | None:
    """Return where the hosts record: in the folder that is named, in a new one if it is not, or nowhere."""
    if named is None:
        return None
    return str(Path(named).absolute()) if named else tempfile.mkdtemp(prefix="ftvm-past-")


def _say_where(folder: Path) -> None:
    """Say where the past is, and how to look at it."""
    kept = sorted(path.parent for path in folder.glob(f"*/{CATALOGUE}"))
    click.echo("what the hosts recorded while they stood by:" if kept else f"no host has recorded anything in {folder}")
    for each in kept:
        click.echo(f"  ftvm history list {each} --epochs")
    if len(kept) > 1:
        click.echo(f"  ftvm history pull {kept[0]} {kept[1]}")


def _draw(folder: Path, guest: str) -> None:
    """Draw some of what a host has recorded, and say where the picture is; or why there is no picture.

    guest  the name of a program, or the path of one
    """
    picture, found = folder / "picture.html", _longest(folder)
    if found is None:
        return
    click.echo("what the guest did where it had most to do, drawn by executing it again; open in a browser:")
    try:
        with History.open(found) as history, _program(guest) as program:
            with TimeMachine(StoredPast(history), program=program) as past:
                first = _busiest(history, past)
                covered = cover(past, first, min(past.end, first + _DRAWN_INSTRUCTIONS))
            save_picture(covered, picture, sources=())
    except FtvmError as wrong:
        click.echo(f"  no picture: {wrong}")
    else:
        click.echo(f"  {picture.absolute().as_uri()}")


def _longest(folder: Path) -> Path | None:
    """Return the history that has the most epochs; None if no host has recorded any."""
    counts: list[tuple[int, Path]] = []
    for catalogue in sorted(folder.glob(f"*/{CATALOGUE}")):
        with History.open(catalogue.parent) as history:
            counts.append((len(list(history.epochs())), catalogue.parent))
    most, found = max(counts, default=(0, None))
    return found if most else None


def _busiest(history: History, past: TimeMachine) -> int:
    """Return the instruction with which the epoch began in which the guest executed most."""
    cuts = [epoch.position.retired for epoch in history.epochs() if epoch.position is not None]
    within = [cut for cut in cuts if past.start <= cut <= past.end]
    return max(pairwise([past.start, *within]), key=lambda pair: pair[1] - pair[0], default=(past.start,))[0]


def _program(guest: str) -> AbstractContextManager[Path]:
    return open_program(guest) if guest in SUMMARIES else contextlib.nullcontext(Path(guest))


def _linux() -> str:
    """Return the path of the Linux guest that the user has built."""
    folder = Path(os.environ.get("FTVM_LINUX", "~/.cache/ftvm-linux")).expanduser()
    image = folder / "linux.elf"
    if not image.is_file():
        raise ConfigError(
            f"there is no {image}: build it with `python3 examples/linux/build.py {folder}`, "
            "or name the folder that has it in the environment variable FTVM_LINUX"
        )
    return str(image)


def _play(options: DemoOptions, as_json: bool) -> Outcome:
    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:
        screen: Screen
        if as_json:
            screen = SilentScreen()
        elif console.is_terminal:
            screen = stack.enter_context(LiveScreen(console))
        else:
            screen = PlainScreen(console)
        outcome = run(options, screen)
    if as_json:
        click.echo(json.dumps(outcome.as_dict()))
    else:
        console.print(summary(outcome))
    return outcome
