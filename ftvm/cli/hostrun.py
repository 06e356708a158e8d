"""Keeps a host running in the foreground: prints what happens, stops cleanly on Ctrl-C and SIGTERM."""

from typing import Final

from ftvm.cli.exits import Stopped, stop_on_signals
from ftvm.cli.logreport import LogReport
from ftvm.cli.report import JsonReport, Report, TextReport
from ftvm.errors import ClosedError, GuestEnded
from ftvm.events import Event
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.protection import Protection, Standby
from ftvm.runtime.status import Status
from ftvm.units import nanos_to_seconds

__all__ = ["make_report", "run_until_stopped"]

_STATUS_SECONDS: Final = 0.25


def make_report(is_json: bool, log_format: str) -> Report:
    """Return the kinds of report that were asked for, and have signals raise Stopped from now on."""
    stop_on_signals()
    if log_format == "json":
        return Reports(LogReport(), JsonReport()) if is_json else LogReport()
    return JsonReport() if is_json else TextReport()


class Reports:
    """Several reports as one: the log on stderr beside the JSON lines on stdout."""

    def __init__(self, *reports: Report) -> None:
        self._reports = reports

    def event(self, event: Event) -> None:
        """See Report."""
        for report in self._reports:
            report.event(event)

    def status(self, status: Status) -> None:
        """See Report."""
        for report in self._reports:
            report.status(status)

    def close(self) -> None:
        """See Report."""
        for report in self._reports:
            report.close()


def run_until_stopped(host: Protection | Standby, report: Report) -> None:
    """Report events and status until a signal or an operator's `ftvm ctl stop` comes or the guest has come to its own
    end, which are normal ends, or the host fails, which raises."""
    clock = MonotonicClock()
    told_at = clock.now()
    try:
        report.status(host.status())
        while True:
            for event in host.events(_STATUS_SECONDS):
                report.event(event)
            host.check()
            if nanos_to_seconds(clock.now() - told_at) >= _STATUS_SECONDS:  # events come far more often
                told_at = clock.now()
                report.status(host.status())
    except GuestEnded:
        for event in host.events():  # the last word of it
            report.event(event)
    except (Stopped, ClosedError):
        return
    finally:
        report.close()
