import io

import pytest
from rich.console import Console, RenderableType

from ftvm.lab import screen as screens
from ftvm.lab.demo import DemoOptions, Outcome, Screen, TakeoverTime
from ftvm.lab.ledger import Ledger
from ftvm.lab.screen import LiveScreen, PlainScreen, SilentScreen, summary


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, height=50, color_system=None)


def shown_on(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def text_of(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return shown_on(console)


def busy_ledger() -> Ledger:
    ledger = Ledger(("A", "B"))
    ledger.on_host_line(
        ledger.hosts["A"], {"status": {"role": "active", "generation": 1, "epoch": 1234, "standby": None}}
    )
    ledger.on_host_line(ledger.hosts["A"], {"event": "CopyProgress", "round": 1, "pages_sent": 600, "pages_left": 200})
    ledger.host_killed("B")
    ledger.on_client_line({"status": {"requests_acknowledged": 4321, "requests_per_second": 250}})
    return ledger


def outcome(ledger: Ledger, *, trouble: str | None = None) -> Outcome:
    takeover = TakeoverTime(detection_ms=300.4, heard_ms=303.1, total_ms=345.6)
    options = DemoOptions(kills=1)
    return Outcome(options=options, kills=1, takeovers=(takeover,), ledger=ledger, seconds=5, trouble=trouble)


def test_live_screen_shows_both_hosts_the_client_and_what_happened() -> None:
    console = terminal()
    with LiveScreen(console) as screen:
        screen.say("KILLED host B")
        screen.show(busy_ledger())

    shown = shown_on(console)
    for text in (
        "host A",
        "active",
        "1,234",
        "guest runs here, alone",
        "host B",
        "killed",
        "4321",
        "250 /s",
        "KILLED host B",
    ):
        assert text in shown


def test_live_screen_is_drawn_no_more_often_than_an_eye_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens, "_seconds", lambda: 7.0)
    console = terminal()
    with LiveScreen(console) as screen:
        screen.show(busy_ledger())
        drawn = len(shown_on(console))

        screen.show(busy_ledger())

        assert len(shown_on(console)) == drawn


def test_plain_screen_prints_what_happened_and_nothing_else() -> None:
    console = terminal()
    screen = PlainScreen(console)

    screen.show(busy_ledger())
    screen.say("host B took over [in time]")

    assert shown_on(console).endswith("host B took over [in time]\n")
    assert len(shown_on(console).splitlines()) == 1


@pytest.mark.parametrize("screen", [SilentScreen(), PlainScreen(terminal()), LiveScreen(terminal())])
def test_every_screen_has_the_shape_of_a_screen(screen: Screen) -> None:
    screen.say("hello")
    screen.show(busy_ledger())


def test_summary_of_a_good_run_says_that_nothing_was_lost() -> None:
    ledger = busy_ledger()
    verdict = {"requests_acknowledged": 4321, "acknowledged_lost": 0, "contradicted": 0, "unanswered": 0}
    ledger.on_client_line({"verdict": verdict | {"findings": []}})

    shown = text_of(summary(outcome(ledger)))

    assert outcome(ledger).is_good
    for text in ("1 of 1", "346 ms, of which 300 ms to notice", "4,321", "nothing was lost"):
        assert text in shown


def test_summary_of_a_bad_run_shows_the_findings() -> None:
    ledger = busy_ledger()
    verdict = {"requests_acknowledged": 9, "acknowledged_lost": 1, "contradicted": 0, "unanswered": 0}
    ledger.on_client_line({"verdict": verdict | {"findings": ["an acknowledged PUT is gone: [x]"]}})

    shown = text_of(summary(outcome(ledger)))

    assert not outcome(ledger).is_good
    assert "wrong: an acknowledged PUT is gone: [x]" in shown
    assert "FAILED" in shown


def test_summary_of_a_broken_run_says_why_it_stopped() -> None:
    shown = text_of(summary(outcome(busy_ledger(), trouble="host A ended with status 1")))

    assert "the demo could not go on: host A ended with status 1" in shown
    assert "FAILED" in shown
