"""The operator's side of a running host: control socket, metrics, notices to a service manager."""

from contextlib import ExitStack
from types import ModuleType
from typing import Final

from ftvm.errors import ConfigError
from ftvm.runtime.services import HostService
from ftvm.service.control import ControlSocket
from ftvm.service.notify import Notifier
from ftvm.transport.endpoints import parse_endpoint

__all__ = ["check_control", "check_metrics", "open_services"]

NOWHERE: Final = "none"


def open_services(
    stack: ExitStack, *, guest_id: str, control: str | None, metrics: str | None, is_ready_when_active: bool
) -> tuple[HostService, ...]:
    """Return the open services for the operator; `stack` closes them. Raises ConfigError, TransportError."""
    opened: list[HostService] = []

    def add(service: HostService) -> None:
        opened.append(service)
        stack.callback(service.close)

    if control != NOWHERE:
        add(ControlSocket(control, guest_id=guest_id))
    if metrics is not None:
        add(_metrics_page(metrics))
    notifier = Notifier.from_environment(is_ready_when_active=is_ready_when_active)
    if notifier is not None:
        add(notifier)
    return tuple(opened)


def check_control(control: str | None) -> None:
    """Raise ConfigError unless this names a control socket, or none."""
    if control not in (None, NOWHERE) and parse_endpoint(control).scheme != "ipc":
        raise ConfigError(f"control socket {control!r}: write ipc:///PATH, or `none`")


def check_metrics(metrics: str | None) -> None:
    """Raise ConfigError unless this is an address for metrics."""
    if metrics is not None:
        _metrics_module().parse_address(metrics)


def _metrics_page(address: str) -> HostService:
    page: HostService = _metrics_module().MetricsPage(address)
    return page


def _metrics_module() -> ModuleType:
    """Import what needs a package that is not always installed."""
    try:
        from ftvm.service import metrics
    except ModuleNotFoundError as wrong:
        raise ConfigError("metrics need the package prometheus-client: pip install 'ftvm[metrics]'") from wrong
    return metrics
