"""`python -m ftvm` is the `ftvm` command; the way in for both."""

import sys
from importlib import import_module

from ftvm.cli.signals import EXIT_STOPPED, Stopped, ignore_signals, stop_on_signals

__all__ = ["main"]


def main() -> None:
    """Run the command line. Signals come first, then what takes time to load."""
    try:
        stop_on_signals()
        try:
            import_module("ftvm.cli.main").main()
        finally:
            ignore_signals()
    except Stopped:
        sys.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
