"""Signals end a command as documented, from its first moment on."""

import signal
from collections.abc import Iterator

import pytest

import ftvm.__main__ as way_in
from ftvm.cli.signals import Stopped, stop_on_signals

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _signals_are_as_before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in ENDING}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING, ids=lambda number: number.name)
def test_a_signal_while_the_command_still_loads_ends_it_as_documented(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: Ctrl-C in the first moments was a traceback, or "Aborted!" and status 1."""
    monkeypatch.setattr(way_in, "import_module", lambda _: signal.raise_signal(number))

    with pytest.raises(SystemExit) as ended:
        way_in.main()

    assert ended.value.code == 130


def test_a_second_signal_does_not_break_the_clean_up() -> None:
    stop_on_signals()
    with pytest.raises(Stopped, match="SIGHUP"):
        signal.raise_signal(signal.SIGHUP)

    for number in ENDING:
        signal.raise_signal(number)

    assert {signal.getsignal(number) for number in ENDING} == {signal.SIG_IGN}


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    stop_on_signals()
    signal.raise_signal(signal.SIGHUP)

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
