"""`ftvm history debug` and `ftvm history cover`: gdb on a recorded past, and the picture of what ran."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final, TypedDict, Unpack

import click

from ftvm.cli.signals import Stopped
from ftvm.errors import ConfigError
from ftvm.history.coverage import WINDOW_TICKS, Coverage, cover
from ftvm.history.gdbserver import GdbServer
from ftvm.history.history import History
from ftvm.history.picture import save_picture
from ftvm.history.recording import read_recording
from ftvm.history.stored import StoredPast
from ftvm.history.timeline import Past, TimeMachine

__all__ = ["cover_command", "debug_command"]

_PLACE: Final = click.IntRange(min=0)
_FILE: Final = click.Path(path_type=Path)


class _PastOf(TypedDict):
    """The arguments that say which past is meant."""

    kept: Path
    key: Path | None
    from_epoch: int | None
    to_epoch: int | None


def _of_a_past(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the argument PAST, and the options that belong to a history."""
    for decorate in (
        click.option("--to-epoch", type=_PLACE, metavar="E", help="Of a history: end there.  [default: the newest]"),
        click.option("--from-epoch", type=_PLACE, metavar="E", help="Of a history: begin there.  [default: the first]"),
        click.option("--key", metavar="FILE", type=_FILE, help="Of a history: its key, if it is encrypted."),
        click.argument("kept", metavar="PAST", type=_FILE),
    ):
        command = decorate(command)
    return command


@contextmanager
def _opened(*, kept: Path, key: Path | None, from_epoch: int | None, to_epoch: int | None) -> Iterator[Past]:
    """Open a recording or a history."""
    if not kept.is_dir():
        if (key, from_epoch, to_epoch) != (None, None, None):
            raise ConfigError(f"{kept} is not the folder of a history: it has no epochs and no key")
        yield read_recording(kept)
        return
    with History.open(kept, key=key) as history:
        yield StoredPast(history, first=from_epoch, last=to_epoch)


@click.command("debug", short_help="Let gdb go through a recorded past, forwards and backwards.")
@_of_a_past
@click.option("--elf", "program", metavar="FILE", type=_FILE, help="The program with symbols; gdb is told to read it.")
@click.option("--listen", metavar="WHERE", default="tcp:127.0.0.1:0", show_default=True,
              help="Where gdb comes in: unix:PATH or tcp:HOST:PORT, on this host alone.")  # fmt: skip
@click.option("--at-instruction", type=_PLACE, metavar="N", help="Begin before instruction N.  [default: the end]")
@click.option("--at-epoch", type=_PLACE, metavar="E", help="Of a history: begin where epoch E was cut.")
@click.option("--once", is_flag=True, help="End when the first gdb has left.")
def debug_command(
    program: Path | None,
    listen: str,
    at_instruction: int | None,
    at_epoch: int | None,
    once: bool,
    **past_of: Unpack[_PastOf],
) -> None:
    """Serve PAST to gdb: an ordinary gdb-multiarch, or a front end on it.

    PAST is a file that `ftvm machine run --record` wrote, or the folder of a standby's history. gdb may step, continue,
    break and watch in both directions. The past cannot be changed.

    Ends with ^C, and exit status 0; with --once when gdb has left, and with 130 if ^C comes first.
    """
    with _opened(**past_of) as kept, TimeMachine(kept, program=program) as past:
        if at_epoch is not None:
            if not isinstance(kept, StoredPast) or at_instruction is not None:
                raise ConfigError("--at-epoch is for a history, and without --at-instruction")
            at_instruction = kept.position_of(at_epoch).retired
        past.go(past.end if at_instruction is None else at_instruction)
        server = GdbServer(past, listen)
        try:
            _say(past, server.target, program)
            server.serve()
            while not once:
                server.serve()
        except Stopped:
            if once:
                raise
        finally:
            server.close()


def _say(past: TimeMachine, target: str, program: Path | None) -> None:
    click.echo(f"instruction {past.moment.retired} of {past.end}; for gdb, in another terminal:")
    with as_file(files("ftvm.history").joinpath("commands.gdb")) as commands:
        elf = f" {program}" if program is not None else ""
        click.echo(f'  gdb-multiarch{elf} -ex "source {commands}" -ex "target remote {target}"')


@click.command("cover", short_help="Show what ran in a recorded past, as a picture or as counts.")
@_of_a_past
@click.option(
    "--elf", "program", metavar="FILE", type=_FILE, required=True, help="The program, with symbols and lines."
)
@click.option("--from", "first", type=_PLACE, metavar="N", help="Begin before instruction N.  [default: the first]")
@click.option("--to", "last", type=_PLACE, metavar="N", help="End before instruction N.  [default: the last]")
@click.option("--beside", type=(_PLACE, _PLACE), metavar="N M",
              help="Draw beside it what ran from instruction N to M.")  # fmt: skip
@click.option("--epoch", "epochs", type=_PLACE, metavar="E", multiple=True,
              help="Of a history: what ran in epoch E, since the one before; twice: side by side.")  # fmt: skip
@click.option("--sources", metavar="DIR", multiple=True, type=_FILE,
              help="Where the sources are; may be repeated.  [default: beside the program, and here]")  # fmt: skip
@click.option("-o", "--output", metavar="FILE", type=_FILE, required=True, help="FILE.html, FILE.svg or FILE.lcov.")
@click.option("--json", "is_json", is_flag=True, help="Print the counts of each source line as one JSON object.")
def cover_command(
    program: Path,
    first: int | None,
    last: int | None,
    beside: tuple[int, int] | None,
    epochs: Sequence[int],
    sources: Sequence[Path],
    output: Path,
    is_json: bool,
    **past_of: Unpack[_PastOf],
) -> None:
    """Execute PAST once more from one instruction to another, and write what ran.

    Each instruction between the two is counted. The picture shows the first 20 ms by function, zooms to one call, and
    has the counts beside the lines; .lcov is for genhtml and editors.

    Two stretches of PAST stand side by side with --beside, or with --epoch given twice: a row for each function, the
    counts of both beside the lines, and a mark at each line that ran in one of them alone.
    """
    if output.suffix not in (".html", ".svg", ".lcov", ".info"):
        raise ConfigError(f"a picture is a .html, .svg or .lcov file, not {output.name}")
    if len(epochs) + (beside is not None) > 2 or (epochs and (first, last, beside) != (None, None, None)):
        raise ConfigError("give --epoch once or twice, or instructions by --from, --to and --beside; not both")
    if (beside is not None or len(epochs) > 1) and output.suffix in (".lcov", ".info"):
        raise ConfigError(f"two stretches stand side by side in a .html or .svg file, not in {output.name}")
    if epochs:
        covered = _epochs_covered(program, epochs, **past_of)
    else:
        with _opened(**past_of) as kept, TimeMachine(kept, program=program) as past:
            stretches = [(past.start if first is None else first, past.end if last is None else last)]
            covered = [cover(past, *stretch) for stretch in stretches + ([] if beside is None else [beside])]
    other = covered[1] if len(covered) > 1 else None
    save_picture(covered[0], output, sources=sources or (program.parent, Path.cwd()), beside=other)
    if is_json:
        told = [{"instructions": one.instructions, "lines": one.lines} for one in covered]
        click.echo(json.dumps({"file": str(output), **told[0], **({"beside": told[1]} if other is not None else {})}))
        return
    click.echo(f"{'; beside it '.join(map(_summary, covered))}: {output}")


def _epochs_covered(program: Path, epochs: Sequence[int], **past_of: Unpack[_PastOf]) -> list[Coverage]:
    """Cover each epoch from its own state, however far apart they are."""
    kept, covered = past_of["kept"], []
    if not kept.is_dir() or (past_of["from_epoch"], past_of["to_epoch"]) != (None, None):
        raise ConfigError("--epoch is for the folder of a history, and without --from-epoch and --to-epoch")
    with History.open(kept, key=past_of["key"]) as history:
        for epoch in epochs:
            with TimeMachine(StoredPast.of_epoch(history, epoch), program=program) as past:
                covered.append(replace(cover(past, past.start, past.end), name=f"epoch {epoch}"))
    return covered


def _summary(coverage: Coverage) -> str:
    ran = sum(1 for lines in coverage.lines.values() for count in lines.values() if count)
    return (
        f"{coverage.instructions} instructions counted, {ran} of {sum(map(len, coverage.lines.values()))} lines ran; "
        f"by function: the first {coverage.window_ticks / WINDOW_TICKS * 20:.1f} ms"
    )
