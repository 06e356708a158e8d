"""``python -m ftvm.lab.rig SCRIPT``: run a script where there is real hardware virtualization, in software."""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

import click

from ftvm.errors import FtvmError
from ftvm.lab.rig import RigMissing
from ftvm.lab.rig.image import KERNELS, default_folder, make_rig
from ftvm.lab.rig.machine import QEMUS, RigRun, run_script
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import nanos_to_seconds

__all__ = ["main", "rig"]

EXIT_MISSING: Final = 77
EXIT_FAILED: Final = 125
EXIT_STOPPED: Final = 130

LAST_BYTES: Final = 1 << 16
"""How much of the script's output is looked at for its last line."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1)
@click.option("--kernel", type=click.Choice(list(KERNELS)), default="6.12", show_default=True, help="The rig's Linux.")
@click.option(
    "--qemu", type=click.Choice(list(QEMUS)), default="7.2", show_default=True, help="The QEMU that SCRIPT finds."
)
@click.option("--memory", default=2000, show_default=True, metavar="MIB", help="Memory of the rig.")
@click.option("--cpus", default=1, show_default=True, help="Processors of the rig; with more it resets now and then.")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="An image of a disk that SCRIPT finds as /dev/vdc; repeat for more. Nothing is written to the file.",
)
@click.option("--seconds", default=3600.0, show_default=True, metavar="S", help="How long SCRIPT may take.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the rig is kept, about 2 GB.  [default: ftvm-rig in the user's cache]",
)
@click.option("--fresh", is_flag=True, help="Fetch the packages again, in the versions of today.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end; SCRIPT's output is on stderr.")
def rig(
    script: Path,
    arguments: Sequence[str],
    kernel: str,
    qemu: str,
    memory: int,
    cpus: int,
    disks: tuple[Path, ...],
    seconds: float,
    folder: Path | None,
    fresh: bool,
    as_json: bool,
) -> None:
    """Run SCRIPT, with its ARGUMENTS behind `--`, in a machine in software that has a real /dev/kvm.

    A stock Debian kernel with kvm_amd runs under QEMU's own emulator, with nested SVM. SCRIPT runs there as root, in
    /work, which has this checkout's tests and examples; it finds ftvm, Python with its test packages, and
    qemu-system-x86_64. All of it is about 20 times slower than outside. The first call fetches about 150 MB of Debian's
    packages; nothing is installed. What SCRIPT writes is gone at the end: it prints what matters.

    Exit status: SCRIPT's; 77 if something is missing here, which is a reason to skip; 125 if the rig itself failed; 130
    if stopped by Ctrl-C.
    """
    _end_on_signals()
    began = MonotonicClock().now()
    try:
        image = make_rig(folder or default_folder(), kernel, _say, is_fresh=fresh)
        _say(f"booting Linux {kernel}; QEMU {qemu} is at hand")
        output = _Output(as_json)
        wanted = RigRun(
            script=script,
            arguments=arguments,
            qemu=qemu,
            memory_mib=memory,
            cpus=cpus,
            seconds=seconds,
            disks=disks,
        )
        status = run_script(image, wanted, output.take)
    except FtvmError as wrong:
        _end(wrong, as_json)
    took = nanos_to_seconds(MonotonicClock().now() - began)
    _say(f"{script.name} ended with status {status} after {took:.0f} s")
    if as_json:
        told = {"status": status, "kernel": kernel, "qemu": qemu, "seconds": round(took)}
        click.echo(json.dumps(told | output.found()))
    sys.exit(status)


class _Output:
    """Hands the script's output on, and remembers its end: a last line that is JSON is the script's result."""

    def __init__(self, as_json: bool) -> None:
        self._stream = sys.stderr.buffer if as_json else sys.stdout.buffer
        self._last = b""

    def take(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.flush()
        self._last = (self._last + data)[-LAST_BYTES:]

    def found(self) -> dict[str, object]:
        """Return {"result": what the last line says} if that is a JSON object, else nothing."""
        try:
            result = json.loads(self._last.rstrip().rpartition(b"\n")[2])
        except ValueError:
            return {}
        return {"result": result} if isinstance(result, dict) else {}


def _say(text: str) -> None:
    click.echo(f"rig: {text}", err=True)


def _end(wrong: FtvmError, as_json: bool) -> None:
    is_missing = isinstance(wrong, RigMissing)
    _say(f"skipped: {wrong}" if is_missing else f"{type(wrong).__name__}: {wrong}")
    if as_json:
        click.echo(json.dumps({"error": {"type": type(wrong).__name__, "message": str(wrong)}}))
    sys.exit(EXIT_MISSING if is_missing else EXIT_FAILED)


def _end_on_signals() -> None:
    """Have a signal end this in order: the first ends the machine, more of them do not disturb that."""
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        for each in ending:
            signal.signal(each, signal.SIG_IGN)
        _say(f"stopped by {signal.Signals(number).name}; its machine is ended")
        raise SystemExit(EXIT_STOPPED)

    for each in ending:
        signal.signal(each, stop)


def main() -> None:
    """Run the command line."""
    rig(prog_name="python -m ftvm.lab.rig")


if __name__ == "__main__":
    main()
