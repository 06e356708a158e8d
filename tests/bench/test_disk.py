"""The bench of a guest's disk begins wherever it is started, and names a peer that does not come up."""

from pathlib import Path

import pytest
from disk import qemus_server

SERVES = """\
#!/bin/sh
while [ "$1" != -k ]; do shift; done
case $2 in /*) touch "$2"; exec sleep 60 ;; *) exit 3 ;; esac
"""


def _put_program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = folder / "qemu-nbd"
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_peer_is_asked_to_serve_at_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put_program(tmp_path, monkeypatch, SERVES)
    monkeypatch.chdir(tmp_path)

    with qemus_server(Path("raw.img"), Path()) as address:
        assert address == f"nbd+unix:///?socket={tmp_path}/peer.sock"


def test_a_peer_that_ends_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _put_program(tmp_path, monkeypatch, "#!/bin/sh\nexit 3\n")

    with pytest.raises(SystemExit, match="qemu-nbd ended with status 3"), qemus_server(tmp_path / "a.img", tmp_path):
        pass
