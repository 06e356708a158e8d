"""The options of a running host that are for its operator: control socket, metrics, log."""

from contextlib import ExitStack
from types import ModuleType
from typing import Final

import click

from ftvm.cli.configoption import word_option
from ftvm.errors import ConfigError
from ftvm.runtime.attend import Attendant
from ftvm.service.control import ControlSocket
from ftvm.service.notify import Notifier
from ftvm.service.places import control_folder, own_endpoint, prepare_folder
from ftvm.transport.endpoints import parse_endpoint

__all__ = ["LOG_FORMATS", "SERVICE_OPTIONS", "check_control", "check_metrics", "open_attendants"]

NOWHERE: Final = "none"
LOG_FORMATS: Final = ("text", "json")

SERVICE_OPTIONS: Final = (
    click.option(
        "--control",
        metavar="ipc:///PATH",
        help="Where `ftvm status` and `ftvm ctl` reach this host, or `none`.  [default: a place of the user]",
    ),
    click.option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus there, e.g. 127.0.0.1:9753."),
    word_option(
        "--log-format",
        LOG_FORMATS,
        explained="What happens is told on stderr: as lines for a person, or as JSON lines.",
    ),
)


def open_attendants(
    stack: ExitStack, *, guest_id: str, control: str | None, metrics: str | None, is_ready_when_active: bool
) -> tuple[Attendant, ...]:
    """Return what serves the operator, open, and closed with `stack`. Raises ConfigError, TransportError."""
    opened: list[Attendant] = []

    def add(attendant: Attendant) -> None:
        opened.append(attendant)
        stack.callback(attendant.close)

    if control is None:
        folder = control_folder()
        prepare_folder(folder)
        control = own_endpoint(folder, guest_id)
    if control != NOWHERE:
        add(ControlSocket(control))
    if metrics is not None:
        add(_metrics_page(metrics))
    notifier = Notifier.from_environment(is_ready_when_active=is_ready_when_active)
    if notifier is not None:
        add(notifier)
    return tuple(opened)


def check_control(control: str | None) -> None:
    """Raise ConfigError unless a control socket can be meant."""
    if control not in (None, NOWHERE) and parse_endpoint(control).scheme != "ipc":
        raise ConfigError(f"control socket {control!r}: write ipc:///PATH, or `none`")


def check_metrics(metrics: str | None) -> None:
    """Raise ConfigError unless metrics can be served there, by the looks of it."""
    if metrics is not None:
        _metrics_module().parse_address(metrics)


def _metrics_page(address: str) -> Attendant:
    page: Attendant = _metrics_module().MetricsPage(address)
    return page


def _metrics_module() -> ModuleType:
    """Import what needs a package that is not always installed."""
    try:
        from ftvm.service import metrics
    except ModuleNotFoundError as wrong:
        raise ConfigError("--metrics needs the package prometheus-client: pip install 'ftvm[metrics]'") from wrong
    return metrics
