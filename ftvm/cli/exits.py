"""How a command ends: exit statuses, and errors told to a person.

0    it did what was asked
1    it failed: the outside broke (an arbiter, a port, a guest), or a check found something wrong
2    an argument, option or file is wrong; nothing was started
3    the peer broke the protocol, or speaks another version
4    a bug in ftvm
130  stopped by Ctrl-C, SIGTERM or SIGHUP where that is not its normal end (signals.py)
"""

import contextlib
import errno
import json
import sys
from collections.abc import Callable
from typing import Final

import click

from ftvm.cli.streams import drop_output
from ftvm.errors import ConfigError, FtvmError, ImageError, InternalError, RemoteProtocolError
from ftvm.runtime.names import for_people

__all__ = ["exit_status", "run_command"]

EXIT_BUG: Final = 4

_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of writing that are nobody's mistake; a closed pipe ends a command by itself."""


def exit_status(error: FtvmError) -> int:
    """Return the exit status for an error, by whose fault it is."""
    if isinstance(error, ConfigError | ImageError):
        return 2
    if isinstance(error, RemoteProtocolError):
        return 3
    return EXIT_BUG if isinstance(error, InternalError) else 1


def run_command(command: Callable[[], object]) -> None:
    """Run a command line to its end and exit: no traceback unless `--debug` was given.

    With `--json` an error is one JSON object on stdout as well: {"error": {"type": CLASS, "message": TEXT}}.
    """
    is_debugging = "--debug" in sys.argv
    try:
        status = command()
    except click.ClickException as wrong:
        _tell_as_json(wrong, wrong.format_message())
        wrong.show()
        sys.exit(wrong.exit_code)
    except click.Abort:
        click.echo("Aborted!", err=True)
        sys.exit(1)
    except FtvmError as error:
        if is_debugging:
            raise
        _tell_as_json(error, "; ".join([str(error), *getattr(error, "__notes__", ())]))
        _complain(f"{type(error).__name__}: {error}")
        for note in getattr(error, "__notes__", ()):
            _complain(note)
        sys.exit(exit_status(error))
    except Exception as error:
        if is_debugging:
            raise
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            _complain(f"cannot write the output: {error.strerror}")
            drop_output()
            sys.exit(1)
        _tell_as_json(error, str(error))
        _complain(f"a bug in ftvm: {type(error).__name__}: {error}")
        _complain("please report it with what `ftvm --debug ...` prints.")
        sys.exit(EXIT_BUG)
    sys.exit(status if isinstance(status, int) else 0)


def _tell_as_json(error: Exception, message: str) -> None:
    """Say what went wrong to a program that reads stdout, if the command was asked for JSON."""
    if "--json" in sys.argv:
        with contextlib.suppress(OSError):
            click.echo(json.dumps({"error": {"type": type(error).__name__, "message": message}}))


def _complain(text: str) -> None:
    with contextlib.suppress(OSError):  # nowhere left to say it; the exit status does
        click.echo(f"ftvm: {for_people(text)}", err=True)
