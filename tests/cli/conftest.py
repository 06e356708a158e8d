"""The command line run in this process, as `ftvm ...` would run it."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ftvm.cli.main import main
from ftvm.runtime.protection import Protection, protect
from ftvm.service.control import ControlSocket
from ftvm.sim.guest import SimGuest


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _hosts_are_reached_where_nobody_else_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def ftvm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `ftvm` with arguments; no traceback may come out of it, whatever they are."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ftvm", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        status = ended.value.code
        return Outcome(0 if status is None else int(status), said.out, said.err)

    return run


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Protection]:
    """Return a host that runs guest vm1, unprotected, found as by default."""
    (tmp_path / "ftvm").mkdir()
    with protect(
        SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=True),
        listen="tcp://127.0.0.1:0",
        arbiter="memory:asking",
        create=True,
        guest_id="vm1",
        node="n1",
        services=[ControlSocket(f"ipc://{tmp_path}/ftvm/vm1.sock")],
    ) as protection:
        yield protection
