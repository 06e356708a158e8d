"""`ftvm top`: a live view of the guests on this machine."""

import json
import select
import sys
from contextlib import ExitStack
from typing import Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ftvm.cli.asking import asking_options, memory_line, mute_told, state_line
from ftvm.cli.signals import Stopped
from ftvm.runtime.names import for_people
from ftvm.runtime.standing import State
from ftvm.runtime.status import Status
from ftvm.service.connection import Connection, connect
from ftvm.service.controlline import MuteHost
from ftvm.service.health import Health, health
from ftvm.service.view import Look, bars, bucket_names, look

__all__ = ["top"]

_STATE_STYLES: Final[dict[str, str]] = {
    State.PROTECTED: "green",
    State.STANDBY: "green",
    State.FAILED: "bold white on red",
}
_ROLE_STYLES: Final = {"active": "bold green", "standby": "cyan", "syncing": "yellow", "empty": "yellow"}


@click.command()
@asking_options
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    metavar="S",
    type=click.FloatRange(min=0.05, max=60.0),
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one view, of rates over one interval, and end.")
def top(control: str | None, is_json: bool, interval: float, once: bool) -> None:
    """Watch the guests on this machine: where they run, and what their protection costs.

    Shows for each guest its state, generation, epoch and lag, rates of dirty pages and of the link, and how long pauses
    and held outputs took: bars from 10 us on the left to 0.5 s and more on the right, of the last interval. Ctrl-C ends
    it. With --json, one line for each look: a list of objects with the fields of ftvm.Status and "rates".

    Exit status with --once: as that of `ftvm status`.
    """
    console = Console(highlight=False)
    with ExitStack() as stack, connect(control) as machine:
        live = None
        if not once and not is_json and console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False, screen=True))
        viewer = _Viewer(machine)
        try:
            viewer.look()
            while True:
                select.select((), (), (), interval)
                looks = viewer.look()
                if is_json:
                    told = [{**each.as_dict(), "control": where} for where, each in looks.items()]
                    click.echo(json.dumps([*told, *map(mute_told, viewer.mute)]))
                elif live is not None:
                    live.update(_scene(looks, viewer.mute, machine), refresh=True)
                else:
                    console.print(_scene(looks, viewer.mute, machine))
                if once:
                    sys.exit(
                        0 if health([each.status for each in looks.values()], len(viewer.mute)) is Health.OK else 1
                    )
        except Stopped:
            return


class _Viewer:
    """Remembers the last status of each host, to compute rates."""

    def __init__(self, machine: Connection) -> None:
        self._machine = machine
        self._before: dict[tuple[str, str], Status] = {}
        self.mute: list[MuteHost] = []

    def look(self) -> dict[str, Look]:
        """Return what there is to show of each guest, by its control socket; `mute` then has the hosts that do not
        answer."""
        found = self._machine.survey()
        self.mute = found.mute
        now = {(str(guest.path), guest.id): guest.last_status for guest in found.guests}
        looks = {f"ipc://{key[0]}": look(status, self._before.get(key)) for key, status in now.items()}
        self._before = now
        return looks


def _scene(looks: dict[str, Look], mute: list[MuteHost], machine: Connection) -> RenderableType:
    if not looks and not mute:
        return Text(f"no host answers at {machine.place}")
    silent = (Text(str(each), style="bold white on red") for each in mute)
    return Group(*silent, *(_panel(where, each) for where, each in looks.items()))


def _panel(where: str, shown: Look) -> Panel:
    status = shown.status
    left, right = _table(), _table()
    left.add_row("role", Text(status.role, style=_ROLE_STYLES.get(status.role, "")))
    left.add_row("state", _state(status))
    left.add_row("engine", ", ".join(filter(None, (status.engine, status.engine_settings))))
    left.add_row("generation", f"{status.generation}")
    left.add_row("epoch", f"{status.epoch:,}")
    left.add_row("lag", f"{status.lag_ms:.1f} ms, {status.epochs_in_flight} in flight")
    left.add_row("memory", memory_line(status) or "unknown")
    has_session = status.silence_limit_ms > 0
    allowed = f"{status.silence_limit_ms:.0f} ms allowed now (set: {status.silence_ms:.0f})"
    left.add_row("silence", allowed if has_session else "no other host to hear")
    left.add_row("loop late", f"{status.loop_late_ms:.1f} ms at most in the last minute")
    right.add_row("dirty", f"{shown.dirty_pages:,.0f} pages/s")
    right.add_row("link", f"{shown.link_bytes / 1000:,.1f} kB/s")
    right.add_row("checkpoints", f"{shown.checkpoints:,.1f} /s")
    right.add_row("outputs", f"{shown.outputs:,.1f} /s, {status.outputs_held} held")
    right.add_row("pause", _histogram(shown.pauses, status.pause_us.p50, status.pause_us.p99))
    right.add_row("delay", _histogram(shown.output_delays, status.output_delay_us.p50, status.output_delay_us.p99))
    both = Table.grid(expand=True, padding=(0, 2))
    both.add_column(ratio=2)
    both.add_column(ratio=3)
    both.add_row(left, right)
    return Panel(
        both,
        title=f"guest {status.guest_id}{f' on {status.node}' if status.node else ''}",
        title_align="left",
        subtitle=where,
        subtitle_align="right",
    )


def _table() -> Table:
    return Table.grid(padding=(0, 2))


def _state(status: Status) -> Text:
    return Text(for_people(state_line(status)), style=_STATE_STYLES.get(status.state, "bold yellow"))


def _histogram(counts: tuple[int, ...], p50_us: float, p99_us: float) -> Text:
    shortest, longest = bucket_names()
    return Text.assemble(
        (f"{shortest} ", "dim"),
        (bars(counts), "green"),
        (f" {longest}  ", "dim"),
        f"p50 {p50_us / 1000:.2f} ms, p99 {p99_us / 1000:.2f} ms",
    )
