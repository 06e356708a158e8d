"""Runs a host in the foreground: checks its settings, prints what happens, stops it cleanly on signals (signals.py)."""

from contextlib import suppress
from functools import partial
from typing import Final

import click

from ftvm.cli.hostparts import addresses, opened, peer_endpoints
from ftvm.cli.logreport import LogReport, say_lost_in_log
from ftvm.cli.report import JsonReport, Report, TextReport, say_lost_as_json
from ftvm.cli.settings import HostSettings, check_settings
from ftvm.cli.signals import note_signals, on_second_signal, stop_wanted
from ftvm.cli.streams import forget_typed, outlive_readers
from ftvm.errors import ClosedError, GuestEnded
from ftvm.events import ArbiterTrouble, Event, GuestWarned, RoleChanged
from ftvm.runtime.clock import MonotonicClock
from ftvm.runtime.descriptors import raise_limit
from ftvm.runtime.protection import HostHandle, Standby, protect
from ftvm.runtime.status import Status
from ftvm.service.outlet import say_lost
from ftvm.units import nanos_to_seconds

__all__ = ["run_primary", "run_standby"]

_STATUS_SECONDS: Final = 0.25


def run_primary(settings: HostSettings, *, create: bool) -> None:
    """Start the guest as soon as the record allows, and protect it until this host must stop."""
    check_settings(settings)
    prepare_process(settings)
    with opened(settings) as (guest, options):
        report = make_report(settings.is_json, settings["log-format"])
        doorkeeper = Doorkeeper()
        options["on_event"] = doorkeeper.note
        with protect(guest, create=create, **addresses(settings), **options) as protection:
            doorkeeper.retire()
            run_until_stopped(protection, report)


def run_standby(settings: HostSettings) -> None:
    """Stand by for the guest, and run it after a takeover, until this host must stop."""
    check_settings(settings)
    prepare_process(settings)
    with opened(settings) as (guest, options):
        report = make_report(settings.is_json, settings["log-format"])
        if not settings.is_json and settings["log-format"] == "text":
            asked = ", ".join(peer_endpoints(settings))
            click.echo(f"ftvm: standing by for guest {settings['guest']!r}: asks {asked} to let it join", err=True)
        note_signals()
        options["on_event"] = Doorkeeper().note
        with Standby(guest, **addresses(settings), **options) as host:
            run_until_stopped(host, report)


def prepare_process(settings: HostSettings) -> None:
    """Have no reader of its output end this host or hold it up, and no flood of connections fill its descriptors.

    Before anything is opened that prints.
    """
    raise_limit()
    outlive_readers(
        say_lost_as_json if settings.is_json else say_lost,
        partial(say_lost_in_log, settings["guest"]) if settings["log-format"] == "json" else say_lost,
    )


def make_report(is_json: bool, log_format: str) -> Report:
    """Return the reports that the settings ask for."""
    if log_format == "json":
        return Reports(LogReport(), JsonReport()) if is_json else LogReport()
    return JsonReport() if is_json else TextReport()


class Doorkeeper:
    """Tells on stderr what keeps a host from starting or stopping, while the main thread waits for that.

    Until the guest runs here a signal breaks that wait off; from then on it is the normal end of a host, and is noted.
    """

    def __init__(self) -> None:
        self._is_waiting = True
        self._told: str | None = None

    def note(self, event: Event) -> None:
        """Take an event, in the host's thread."""
        if isinstance(event, ArbiterTrouble) and self._is_waiting and event.error != self._told:
            self._told = event.error
            click.echo(f"ftvm: waiting for the arbiter: {event.error}", err=True)
        if isinstance(event, RoleChanged) and event.role == "active":
            note_signals()
        if isinstance(event, GuestWarned) and stop_wanted() is not None:  # the report comes at the end
            click.echo(f"ftvm: {event.reason}", err=True)

    def retire(self) -> None:
        """Say no more: the host has started, and its report tells everything."""
        self._is_waiting = False


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


def run_until_stopped(host: HostHandle, report: Report) -> None:
    """Report events and status until a signal or an operator's `ftvm ctl leave` comes or the guest has come to its own
    end, which are normal ends, or the host fails, which raises."""
    on_second_signal(host.hurry)
    try:
        with suppress(GuestEnded, ClosedError):
            _report_until_stopped(host, report)
        end_and_tell(host, report)
    finally:
        report.close()
        forget_typed()


def _report_until_stopped(host: HostHandle, report: Report) -> None:
    clock = MonotonicClock()
    told_at = clock.now()
    report.status(host.status())
    while stop_wanted() is None:
        for event in host.events(_STATUS_SECONDS):
            report.event(event)
            if stop_wanted() is not None:  # events may come as fast as they are told
                return
        host.check()
        if nanos_to_seconds(clock.now() - told_at) >= _STATUS_SECONDS:  # events come far more often
            told_at = clock.now()
            report.status(host.status())


def end_and_tell(host: HostHandle, report: Report) -> None:
    """Stop the host cleanly, and report what comes of it. Raises what the guest failed of meanwhile."""
    try:
        host.close()
        with suppress(GuestEnded, ClosedError):
            host.check()
    finally:
        for event in host.events():
            report.event(event)
