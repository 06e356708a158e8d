"""What people see of a demo: a live screen in a terminal, plain lines elsewhere, and the summary at the end.

Three screens with one shape (`ftvm.lab.demo.Screen`): `LiveScreen` draws both hosts, the client's rate and what
happened last; `PlainScreen` prints what happened, a line each; `SilentScreen` is for ``--json``. Knows how things look,
not what they mean.
"""

from collections import deque
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ftvm.lab.demo import Outcome
from ftvm.lab.ledger import HostFacts, Ledger
from ftvm.runtime.clock import MonotonicClock
from ftvm.units import nanos_to_seconds

__all__ = ["LiveScreen", "PlainScreen", "SilentScreen", "summary"]

REDRAW_SECONDS: Final = 0.1
RATES_KEPT: Final = 40
HAPPENED_KEPT: Final = 9
BARS: Final = " ▁▂▃▄▅▆▇█"

ROLE_STYLES: Final = {
    "active": "bold green",
    "standby": "cyan",
    "syncing": "yellow",
    "starting": "yellow",
    "empty": "yellow",
    "killed": "bold white on red",
}


STRIKING: Final = {"KILLED": "bold white on red", "took over": "bold green"}
"""Words to highlight."""


def _seconds() -> float:
    return nanos_to_seconds(MonotonicClock().now())


class SilentScreen:
    """Shows nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def show(self, ledger: Ledger) -> None:
        """Show nothing."""


class PlainScreen:
    """Prints each thing that happened on a separate line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_at = _seconds()

    def say(self, text: str) -> None:
        """Print it with the time since the start."""
        self._console.print(Text(f"{_seconds() - self._started_at:6.1f} s  {text}"), soft_wrap=True)

    def show(self, ledger: Ledger) -> None:
        """Print nothing: a line for each change would bury what happened."""


class LiveScreen:
    """Redraws the whole scene in place, while it is entered as a context."""

    def __init__(self, console: Console) -> None:
        self._started_at = _seconds()
        self._drawn_at = 0.0
        self._happened: deque[str] = deque(maxlen=HAPPENED_KEPT)
        self._rates: deque[int] = deque([0] * RATES_KEPT, maxlen=RATES_KEPT)
        # No refreshing thread: the demo calls `show` all the time, and processes must not be forked beside threads.
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        """Add a line to what happened."""
        self._happened.append(f"{_seconds() - self._started_at:6.1f} s  {text}")
        self._drawn_at = 0.0

    def show(self, ledger: Ledger) -> None:
        """Draw the scene, but not more often than an eye can follow."""
        now = _seconds()
        if now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        self._rates.append(int(ledger.client_status.get("requests_per_second", 0)))
        self._live.update(self._scene(ledger), refresh=True)

    def _scene(self, ledger: Ledger) -> RenderableType:
        hosts = Table.grid(expand=True, padding=(0, 1))
        panels = [_host_panel(host) for host in ledger.hosts.values()]
        for _ in panels:
            hosts.add_column(ratio=1)
        hosts.add_row(*panels)
        happened = Text("\n".join(self._happened), no_wrap=True, overflow="ellipsis")
        for words, style in STRIKING.items():
            happened.highlight_words([words], style)
        return Group(
            hosts,
            Panel(self._client_line(ledger), title="client", title_align="left"),
            Panel(happened, title="what happened", title_align="left", height=HAPPENED_KEPT + 2),
        )

    def _client_line(self, ledger: Ledger) -> Text:
        text = Text.assemble((f"{ledger.acknowledged:>8}", "bold"), " requests answered   ")
        text.append(f"{self._rates[-1]:>6} /s  ")
        text.append(_sparkline(list(self._rates)), style="green")
        return text


def summary(outcome: Outcome) -> RenderableType:
    """Return the results as a table; above it what went wrong, if anything did."""
    facts = outcome.as_dict()
    table = Table.grid(padding=(0, 2))
    table.add_row("kills survived", f"{len(outcome.takeovers)} of {outcome.options.kills}")
    for number, takeover in enumerate(outcome.takeovers, start=1):
        times = f"{takeover.total_ms:.0f} ms, of which {takeover.detection_ms:.0f} ms to notice"
        table.add_row(f"takeover {number}", times)
    verdict = ("requests_acknowledged", "acknowledged_lost", "contradicted", "unanswered")
    for name in (*verdict, "checkpoints", "digests_compared"):
        table.add_row(name.replace("_", " "), "unknown" if facts[name] is None else f"{facts[name]:,}")
    table.add_row("pause", f"{facts['pause_us']['p50']:.0f} us median, {facts['pause_us']['p99']:.0f} us p99")
    table.add_row("pages shipped", f"{facts['bytes_sent']:,} bytes for {facts['bytes_raw']:,}")
    parts: list[RenderableType] = [Text(f"wrong: {finding}", style="red") for finding in facts["findings"]]
    if outcome.trouble is not None:
        parts.append(Text(f"the demo could not go on: {outcome.trouble}", style="red"))
    word = Text("nothing was lost", style="bold green") if outcome.is_good else Text("FAILED", style="bold red")
    return Group(*parts, table, word)


def _host_panel(host: HostFacts) -> Panel:
    is_speaking = host.status_count > 0
    rows = Table.grid(padding=(0, 2))
    rows.add_row("role", Text(host.role, style=ROLE_STYLES.get(host.role, "")))
    rows.add_row("state", _protection(host))
    rows.add_row("generation", f"{host.generation}" if is_speaking else "")
    rows.add_row("epoch", f"{host.epoch:,}" if is_speaking else "")
    rows.add_row("lag", f"{host.lag_ms:.1f} ms" if host.is_active else "")
    rows.add_row("median pause", f"{host.pause_us:.0f} us" if host.is_active else "")
    rows.add_row("outputs held", f"{host.outputs_held}" if host.is_active else "")
    rows.add_row("first copy", _copy_bar(host))
    return Panel(rows, title=f"host {host.name}", title_align="left")


def _protection(host: HostFacts) -> str:
    if not host.is_active:
        return ""
    return "guest runs here, protected" if host.is_protected else "guest runs here, alone"


def _copy_bar(host: HostFacts) -> RenderableType:
    if not host.is_active or host.is_protected or not host.copy_pages_sent:
        return ""
    total = host.copy_pages_sent + host.copy_pages_left
    return ProgressBar(total=total, completed=host.copy_pages_sent, width=24)


def _sparkline(rates: list[int]) -> str:
    top = max(*rates, 1)
    return "".join(BARS[rate * (len(BARS) - 1) // top] for rate in rates)
