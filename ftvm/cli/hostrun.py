"""Keeps a host running in the foreground: prints what happens, stops cleanly on Ctrl-C and SIGTERM."""

from typing import Final

from ftvm.cli.exits import Stopped, stop_on_signals
from ftvm.cli.report import JsonReport, Report, TextReport
from ftvm.errors import ClosedError
from ftvm.runtime.protection import Protection, Standby

__all__ = ["make_report", "run_until_stopped"]

_STATUS_SECONDS: Final = 0.25


def make_report(is_json: bool) -> Report:
    """Return the kind of report that was asked for, and have signals raise Stopped from now on."""
    stop_on_signals()
    return JsonReport() if is_json else TextReport()


def run_until_stopped(host: Protection | Standby, report: Report) -> None:
    """Report events and status until a signal or an operator's `ftvm ctl stop` comes, which is the normal end, or the
    host fails, which raises."""
    try:
        while True:
            for event in host.events(_STATUS_SECONDS):
                report.event(event)
            report.status(host.status())
            host.check()
    except (Stopped, ClosedError):
        return
    finally:
        report.close()
