"""`ftvm history list`, `show`, `diff` and others: what was recorded of a guest beside its standby."""

import json
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TextIO

import click

from ftvm.checkpoint import Output
from ftvm.cli.hostsettings import SHARED
from ftvm.cli.kinds import read_host
from ftvm.cli.settings import check_settings, make_guest
from ftvm.cli.signals import Stopped
from ftvm.errors import HistoryError
from ftvm.history.clone import Clone
from ftvm.history.gdbsocket import GdbSocket
from ftvm.history.history import Epoch, History, Stretch
from ftvm.history.recording import write_recording
from ftvm.history.restore import Progress
from ftvm.runtime.clock import MonotonicClock, time_text
from ftvm.store.crypt import make_key
from ftvm.store.retention import Keep
from ftvm.units import seconds_to_nanos

__all__ = ["EPOCH_COMMANDS"]

_STORE: Final = click.argument("store", metavar="STORE", type=click.Path(path_type=Path))
_EPOCH: Final = click.argument("epoch", type=click.IntRange(min=0))
_KEY: Final = click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="The key of the history.")
_STREAM: Final = click.option("--stream", type=int, metavar="N", help="Of this stream, as `list` numbers them.")
_JSON: Final = click.option("--json", "is_json", is_flag=True, help="Print one JSON object instead of text.")
_SINCE: Final = click.option("--since", metavar="TIME", help="From then on: seconds since 1970, or -10s, -5m, -1h.")
_UNTIL: Final = click.option("--until", metavar="TIME", help="Up to then.")
_SHADES: Final = " .:-=+*#%@"
_WAIT_SECONDS: Final = 0.05
_PAGES_TOLD: Final = 40


def _time(text: str | None) -> float | str | None:
    """Return a time as History takes it."""
    if text is None:
        return None
    try:
        return float(text) if not text.startswith("-") else text
    except ValueError:
        return text


def _print(is_json: bool, value: Any, text: Callable[[], Iterator[str]]) -> None:
    """Print a value as JSON, or as lines of text."""
    if is_json:
        click.echo(json.dumps(value))
    else:
        for line in text():
            click.echo(line)


@contextmanager
def _progress(label: str) -> Iterator[Progress]:
    """Show how far it is, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


# --- looking ------------------------------------------------------------------------------------------------------


@click.command("list", short_help="List what was recorded: stretches, gaps, snapshots, epochs.")
@_STORE
@_KEY
@_SINCE
@_UNTIL
@click.option("--epochs", "is_whole", is_flag=True, help="List each epoch that can be restored.")
@_JSON
def list_command(
    store: Path, key: Path | None, since: str | None, until: str | None, is_whole: bool, is_json: bool
) -> None:
    """List what was recorded into STORE: unbroken stretches with the gaps between them, and the snapshots.

    With --epochs, --since or --until also each epoch that can be restored.
    """
    with History.open(store, key=key) as past:
        stretches, snapshots = past.stretches(), past.snapshots()
        wanted = is_whole or since is not None or until is not None
        epochs = list(past.epochs(since=_time(since), until=_time(until))) if wanted else []
        whole = {
            "guest": past.guest_id,
            "bytes": past.bytes,
            "stretches": [asdict(each) for each in stretches],
            "snapshots": [asdict(each) for each in snapshots],
            **({"epochs": [asdict(each) for each in epochs]} if wanted else {}),
        }

        def text() -> Iterator[str]:
            if past.guest_id is None:
                yield "nothing was recorded yet"
                return
            yield f"guest {past.guest_id}: {past.geometry}; {_size(past.bytes)} on disk"
            for each in stretches:
                yield from _told_stretch(each)
            for pin in snapshots:
                yield f"snapshot {pin.name}: epoch {pin.epoch} of stream {pin.stream}, {time_text(pin.time)}"
            yield from map(_told_epoch, epochs)

        _print(is_json, whole, text)


def _told_stretch(each: Stretch) -> Iterator[str]:
    yield f"gap: {each.reason}" if each.reason != "recording began" else f"began on {each.host}"
    span = f"epochs {each.first} to {each.last}, {time_text(each.began)} to {time_text(each.until)}"
    yield f"stream {each.stream}: {span}, {_size(each.bytes)}" + (
        "; being recorded" if each.ended is None else f"; ended: {each.ended}"
    )


def _told_epoch(each: Epoch) -> str:
    where = "" if each.position is None else f", instruction {each.position.retired}"
    what = f"{each.pages} pages, {_size(each.bytes)}, {each.outputs} outputs"
    return f"epoch {each.number} of stream {each.stream}: {time_text(each.time)}, {each.kind}, {what}{where}"


@click.command(short_help="Show what one epoch holds.")
@_STORE
@_EPOCH
@_KEY
@_STREAM
@_JSON
def show(store: Path, epoch: int, key: Path | None, stream: int | None, is_json: bool) -> None:
    """Show what the finest entry of STORE that ends at EPOCH holds."""
    with History.open(store, key=key) as past:
        entry = past.entry(epoch, stream)
    where = entry.position
    whole = {
        "epoch": entry.epoch,
        "base": entry.base,
        "kind": entry.level.name.lower(),
        "time": entry.time_ns / 1e9,
        "engine": entry.engine,
        "position": None if where is None else [where.retired, where.idled],
        "pages": entry.pages.count,
        "delta_bytes": entry.pages.size_bytes,
        "device_bytes": len(entry.devices),
        "outputs": len(entry.outputs),
        "inputs": len(entry.log),
        "memory_digest": f"{entry.memory_digest:032x}",
    }
    _print(is_json, whole, lambda: (f"{name}: {value}" for name, value in whole.items()))


@click.command(short_help="Show which pages differ between two epochs.")
@_STORE
@click.argument("first", type=click.IntRange(min=0))
@click.argument("last", type=click.IntRange(min=0))
@_KEY
@_STREAM
@click.option("--all", "is_whole", is_flag=True, help=f"Name all pages, not the {_PAGES_TOLD} that changed most.")
@_JSON
def diff(
    store: Path, first: int, last: int, key: Path | None, stream: int | None, is_whole: bool, is_json: bool
) -> None:
    """Show which pages of STORE's guest differ between epochs FIRST and LAST."""
    with History.open(store, key=key) as past, _progress("restoring") as progress:
        found = past.diff(first, last, stream=stream, progress=progress)

    def text() -> Iterator[str]:
        yield f"{len(found)} pages differ, in {sum(each.bytes_changed for each in found)} bytes"
        ordered = found if is_whole else sorted(found, key=lambda each: -each.bytes_changed)[:_PAGES_TOLD]
        for each in ordered:
            yield f"{each.region} page {each.page}: {each.bytes_changed} bytes, the first at offset {each.first}"
        if len(ordered) < len(found):
            yield f"... and {len(found) - len(ordered)} more: --all names them"

    _print(is_json, {"pages": [asdict(each) for each in found]}, text)


@click.command(short_help="Show which parts of memory changed when, as a map.")
@_STORE
@_KEY
@_SINCE
@_UNTIL
@click.option("--rows", type=click.IntRange(1, 500), default=24, show_default=True, help="Parts of the memory.")
@click.option("--columns", type=click.IntRange(1, 1000), default=72, show_default=True, help="Stretches of time.")
@_JSON
def heat(
    store: Path, key: Path | None, since: str | None, until: str | None, rows: int, columns: int, is_json: bool
) -> None:
    """Show how often each part of memory changed over time: a line for a part, a column for a stretch of time."""
    with History.open(store, key=key) as past:
        found = past.heat(since=_time(since), until=_time(until), stretches=columns)
    picture = found.rows(min(rows, found.page_count))
    most = max((max(line) for line in picture), default=0)

    def text() -> Iterator[str]:
        begun, ended = found.starts_ns[0] / 1e9, found.starts_ns[-1] / 1e9
        part = -(-found.page_count // len(picture)) * 4
        scale = f"@ is {most} changes" if most else "nothing changed"
        yield f"{time_text(begun)} to {time_text(ended)}; a line is {part} KiB, {scale}"
        for number, line in enumerate(picture):
            shades = "".join(_SHADES[-(-count * (len(_SHADES) - 1) // most)] if most else " " for count in line)
            yield f"{number * part:>10} KiB |{shades}|"

    whole = {"starts": [start / 1e9 for start in found.starts_ns], "rows": picture, "page_count": found.page_count}
    _print(is_json, whole, text)


@click.command(short_help="Check that all of it can be read, and restores to what it was.")
@_STORE
@_KEY
@_JSON
def verify(store: Path, key: Path | None, is_json: bool) -> None:
    """Read every entry of STORE, and restore each stream's newest epoch and each snapshot, against their digests.

    Exit status 1 if anything is damaged; then it says which epochs and snapshots can still be restored.
    """
    with History.open(store, key=key) as past, _progress("verifying") as progress:
        found = list(past.verify(progress))
        runs, kept = past.restorable(found), past.snapshots()
    safe = {each.name for each in kept if any(run.holds(stream=each.stream, epoch=each.epoch) for run in runs)}

    def text() -> Iterator[str]:
        yield from (f"epoch {each.epoch} of stream {each.stream}: {each.reason}" for each in found)
        if found:
            yield from (f"epochs {r.first} to {r.last} of stream {r.stream} can still be restored" for r in runs)
            yield from () if runs else ("nothing can be restored",)
            for each in kept:
                how = "can still be restored" if each.name in safe else "is lost"
                yield f"snapshot {each.name!r} (epoch {each.epoch} of stream {each.stream}) {how}"

    damaged, left = [asdict(each) for each in found], [asdict(run) for run in runs]
    _print(is_json, {"damaged": damaged, "restorable": left, "snapshots": sorted(safe)}, text)
    if is_json:
        sys.exit(1 if found else 0)
    if found:
        raise HistoryError(f"{store} is damaged in {len(found)} {'place' if len(found) == 1 else 'places'}")
    click.echo(f"{store}: all entries read, all restored epochs have their digests")


# --- keeping ------------------------------------------------------------------------------------------------------


@click.command(short_help="Keep an epoch until it is dropped.")
@_STORE
@click.argument("name")
@click.argument("epoch", type=click.IntRange(min=0), required=False)
@_KEY
@_STREAM
@_JSON
def snapshot(store: Path, name: str, epoch: int | None, key: Path | None, stream: int | None, is_json: bool) -> None:
    """Keep EPOCH of STORE, the newest if none is given, as the snapshot NAME. A host may record meanwhile."""
    with History.open(store, key=key) as past:
        kept = past.snapshot(name, epoch, stream=stream)
    _print(is_json, asdict(kept), lambda: iter([f"snapshot {kept.name}: epoch {kept.epoch} of stream {kept.stream}"]))


@click.command(short_help="Let go of a snapshot.")
@_STORE
@click.argument("name")
@_KEY
@_JSON
def drop(store: Path, name: str, key: Path | None, is_json: bool) -> None:
    """Let go of the snapshot NAME of STORE: what it kept goes when the history is next thinned."""
    with History.open(store, key=key) as past:
        past.drop(name)
    _print(is_json, {"dropped": name}, lambda: iter(()))


@click.command(short_help="Thin it now, and give room back.")
@_STORE
@_KEY
@click.option("--keep", "rule", default="", metavar="RULE", help=f"What is kept for how long.  [default: {Keep()}]")
@_JSON
def gc(store: Path, key: Path | None, rule: str, is_json: bool) -> None:
    """Thin STORE, which no host may be recording into: merge nothing, drop what is older than RULE says."""
    with History.open(store, key=key, keep=Keep.parse(rule)) as past:
        freed, left = past.collect(), past.bytes
    _print(
        is_json, {"freed": freed, "bytes": left}, lambda: iter([f"gave back {_size(freed)}, {_size(left)} are left"])
    )


@click.command(short_help="Write an epoch as plain files.")
@_STORE
@_EPOCH
@click.argument("folder", type=click.Path(path_type=Path))
@_KEY
@_STREAM
@_JSON
def export(store: Path, epoch: int, folder: Path, key: Path | None, stream: int | None, is_json: bool) -> None:
    """Write memory, device state and a description of EPOCH into FOLDER, which is made. All that was in memory is in
    it."""
    with History.open(store, key=key) as past, _progress("restoring") as progress:
        paths = [str(path) for path in past.export(epoch, folder, stream=stream, progress=progress)]
    _print(is_json, {"files": paths}, lambda: iter(paths))


@click.command(short_help="Write a stretch for the time machine.")
@_STORE
@click.argument("first", type=click.IntRange(min=0))
@click.argument("last", type=click.IntRange(min=0))
@click.argument("file", type=click.Path(path_type=Path))
@_KEY
@_STREAM
@_JSON
def extract(
    store: Path, first: int, last: int, file: Path, key: Path | None, stream: int | None, is_json: bool
) -> None:
    """Write what the built-in machine did between epochs FIRST and LAST to FILE, for `ftvm history debug` and `cover`.

    That needs the log of its inputs, which is kept of a guest that was recorded alone, under hybrid or
    lockstep, or under another engine by both hosts.
    """
    with History.open(store, key=key) as past, _progress("restoring") as progress:
        recording = past.extract(first, last, stream=stream, progress=progress)
    write_recording(file, recording)
    inputs, end = len(recording.inputs), recording.end.retired
    told = {"file": str(file), "inputs": inputs, "end": end}
    _print(is_json, told, lambda: iter([f"wrote {file}: {inputs} inputs, up to instruction {end}"]))


@click.command(short_help="Take over what the other host recorded.")
@_STORE
@click.argument("other", type=click.Path(path_type=Path))
@_KEY
@click.option(
    "--other-key", metavar="FILE", type=click.Path(path_type=Path), help="The key of OTHER.  [default: --key]"
)
@_JSON
def pull(store: Path, other: Path, key: Path | None, other_key: Path | None, is_json: bool) -> None:
    """Copy into STORE the stretches of OTHER, a history of the same guest, that it does not have.

    Each host of a pair records while it stands by: together they have both halves.
    """
    with History.open(store, key=key) as past:
        taken = past.pull(other, key=other_key or key)
    _print(
        is_json,
        {"taken": [asdict(each) for each in taken]},
        lambda: (f"took epochs {each.first} to {each.last} of {each.host}" for each in taken),
    )


@click.command(short_help="Run a clone from an epoch, cut off from the world.")
@_STORE
@_EPOCH
@click.argument("file", metavar="GUESTFILE", type=click.Path(path_type=Path))
@_KEY
@_STREAM
@click.option("--seconds", type=click.FloatRange(min=0), default=5.0, show_default=True, help="How long to let it run.")
@click.option("--gdb", "where", metavar="WHERE",
              help="Let gdb run it, a QEMU guest: at unix:PATH or tcp:HOST:PORT, on this host alone.")  # fmt: skip
@_JSON
def run(
    store: Path,
    epoch: int,
    file: Path,
    key: Path | None,
    stream: int | None,
    seconds: float,
    where: str | None,
    is_json: bool,
) -> None:
    """Restore EPOCH of STORE into a guest of GUESTFILE's kind and size, and let it run for a while.

    It is a separate guest: no arbiter, no network, no standby. Its console is printed, and its outputs are compared
    with those that were recorded.

    With --gdb it stands at the epoch until gdb lets it go on, and gdb may change it. It ends with gdb's `kill` or ^C.
    """
    settings = read_host(file, {}, boots=False, is_json=is_json)
    check_settings(settings, but={row.name for row in SHARED})  # a clone meets no other host
    clock, out = MonotonicClock(), sys.stderr if is_json else sys.stdout

    def say(output: Output) -> None:
        if output.channel == "console":
            out.write(output.payload.decode(errors="replace"))
            out.flush()

    with (
        History.open(store, key=key) as past,
        _progress("restoring") as progress,
        past.clone(epoch, make_guest(settings), stream=stream, on_output=say, progress=progress) as clone,
    ):
        if where is not None:
            _let_gdb_run(clone, where, out)
        else:
            clone.resume()
            ends_at = clock.now() + seconds_to_nanos(seconds)
            while clock.now() < ends_at and clone.failure() is None:
                select.select((), (), (), _WAIT_SECONDS)
            clone.pause()
        compared, why = clone.compared, clone.failure()

    def text() -> Iterator[str]:
        yield ""
        if why is not None:
            yield f"the clone ended: {why}"
        yield f"{compared.same} outputs as recorded, {compared.beyond} beyond what was recorded" + (
            "" if compared.different is None else f"; output {compared.different} is another than the recorded one"
        )

    _print(is_json, {**asdict(compared), "ended": why}, text)


def _let_gdb_run(clone: Clone, where: str, out: TextIO) -> None:
    """Serve a clone to gdb until gdb has killed it, or ^C."""
    with closing(GdbSocket(where)) as place, suppress(Stopped):  # it may come as soon as it is said where gdb comes in
        clone.serve_gdb(place.listener.fileno())
        out.write(f'for gdb, in another terminal:\n  gdb -ex "target remote {place.target}"\n')
        out.flush()
        while clone.failure() is None:
            select.select((), (), (), _WAIT_SECONDS)


@click.command(short_help="Make the key of a history.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@_JSON
def keygen(file: Path, is_json: bool) -> None:
    """Write a new key to FILE, readable by its owner only. What is encrypted with it cannot be read without it."""
    make_key(file)
    _print(is_json, {"file": str(file)}, lambda: iter([f"wrote {file}: keep a copy where the history is not"]))


EPOCH_COMMANDS: Final = (list_command, show, diff, heat, verify, snapshot, drop, gc, export, extract, pull, run, keygen)
