"""How a command ends: exit statuses, and errors told to a person.

0    it did what was asked
1    it failed: the outside broke (an arbiter, a port, a guest), or a check found something wrong
2    an argument, option or file is wrong; nothing was started
3    the peer broke the protocol, or speaks another version
4    a bug in ftvm
130  stopped by Ctrl-C or SIGTERM where that is not its normal end
"""

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Final

import click

from ftvm.errors import ConfigError, FtvmError, ImageError, InternalError, RemoteProtocolError

__all__ = ["EXIT_STOPPED", "Stopped", "exit_status", "run_command", "stop_on_signals"]

EXIT_BUG: Final = 4
EXIT_STOPPED: Final = 130


class Stopped(BaseException):
    """Ctrl-C or SIGTERM; not an Exception, so that nothing swallows it."""


def exit_status(error: FtvmError) -> int:
    """Return the exit status for an error, by whose fault it is."""
    if isinstance(error, ConfigError | ImageError):
        return 2
    if isinstance(error, RemoteProtocolError):
        return 3
    return EXIT_BUG if isinstance(error, InternalError) else 1


def stop_on_signals() -> None:
    """Have SIGTERM and Ctrl-C raise Stopped in the main thread, once: a second one must not break the clean-up."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def run_command(command: Callable[[], object]) -> None:
    """Run a command line to its end and exit: no traceback unless `--debug` was given."""
    is_debugging = "--debug" in sys.argv
    try:
        command()
    except FtvmError as error:
        if is_debugging:
            raise
        click.echo(f"ftvm: {type(error).__name__}: {error}", err=True)
        sys.exit(exit_status(error))
    except Stopped:
        sys.exit(EXIT_STOPPED)
    except Exception as error:
        if is_debugging:
            raise
        click.echo(f"ftvm: a bug in ftvm: {type(error).__name__}: {error}", err=True)
        click.echo("Please report it with what `ftvm --debug ...` prints.", err=True)
        sys.exit(EXIT_BUG)
