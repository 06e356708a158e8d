"""`ftvm history debug` and `ftvm history cover`: gdb on a recorded past, and the picture of what ran."""

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import click

from ftvm.errors import ConfigError
from ftvm.history.coverage import WINDOW_TICKS, cover
from ftvm.history.gdbserver import GdbServer
from ftvm.history.picture import save_picture
from ftvm.history.recording import read_recording
from ftvm.history.timeline import TimeMachine

__all__ = ["cover_command", "debug_command"]

_PLACE: Final = click.IntRange(min=0)
_FILE: Final = click.Path(path_type=Path)


@click.command("debug", short_help="Let gdb go through a recorded past, forwards and backwards.")
@click.argument("recording", metavar="RECORDING", type=_FILE)
@click.option("--elf", "program", metavar="FILE", type=_FILE, help="The program with symbols; gdb is told to read it.")
@click.option("--listen", metavar="WHERE", default="tcp:127.0.0.1:0", show_default=True,
              help="Where gdb comes in: unix:PATH or tcp:HOST:PORT, on this host alone.")  # fmt: skip
@click.option("--at-instruction", type=_PLACE, metavar="N", help="Begin before instruction N.  [default: the end]")
@click.option("--once", is_flag=True, help="End when the first gdb has left.")
def debug_command(recording: Path, program: Path | None, listen: str, at_instruction: int | None, once: bool) -> None:
    """Serve RECORDING to gdb: an ordinary gdb-multiarch, or a front end on it.

    `ftvm machine run --record` writes recordings. gdb may step, continue, break and watch in both directions. The past
    cannot be changed. Ends with ^C.
    """
    with TimeMachine(read_recording(recording), program=program) as past:
        past.go(past.end if at_instruction is None else at_instruction)
        server = GdbServer(past, listen)
        try:
            _say(past, server.target, program)
            server.serve()
            while not once:
                server.serve()
        finally:
            server.close()


def _say(past: TimeMachine, target: str, program: Path | None) -> None:
    click.echo(f"instruction {past.moment.retired} of {past.end}; for gdb, in another terminal:")
    with as_file(files("ftvm.history").joinpath("commands.gdb")) as commands:
        elf = f" {program}" if program is not None else ""
        click.echo(f'  gdb-multiarch{elf} -ex "source {commands}" -ex "target remote {target}"')


@click.command("cover", short_help="Show what ran in a recorded past, as a picture or as counts.")
@click.argument("recording", metavar="RECORDING", type=_FILE)
@click.option(
    "--elf", "program", metavar="FILE", type=_FILE, required=True, help="The program, with symbols and lines."
)
@click.option("--from", "first", type=_PLACE, metavar="N", help="Begin before instruction N.  [default: the first]")
@click.option("--to", "last", type=_PLACE, metavar="N", help="End before instruction N.  [default: the last]")
@click.option("--sources", metavar="DIR", multiple=True, type=_FILE,
              help="Where the sources are; may be repeated.  [default: beside the program, and here]")  # fmt: skip
@click.option("-o", "--output", metavar="FILE", type=_FILE, required=True, help="FILE.html, FILE.svg or FILE.lcov.")
def cover_command(
    recording: Path, program: Path, first: int | None, last: int | None, sources: Sequence[Path], output: Path
) -> None:
    """Execute RECORDING once more from one instruction to another, and write what ran.

    Each instruction between the two is counted. The picture shows the first 20 ms by function, zooms to one call, and
    has the counts beside the lines; .lcov is for genhtml and editors.
    """
    if output.suffix not in (".html", ".svg", ".lcov", ".info"):
        raise ConfigError(f"a picture is a .html, .svg or .lcov file, not {output.name}")
    with TimeMachine(read_recording(recording), program=program) as past:
        coverage = cover(past, past.start if first is None else first, past.end if last is None else last)
    save_picture(coverage, output, sources=sources or (program.parent, Path.cwd()))
    ran = sum(1 for lines in coverage.lines.values() for count in lines.values() if count)
    click.echo(
        f"{coverage.instructions} instructions counted, {ran} of {sum(map(len, coverage.lines.values()))} lines ran; "
        f"by function: the first {coverage.window_ticks / WINDOW_TICKS * 20:.1f} ms: {output}"
    )
