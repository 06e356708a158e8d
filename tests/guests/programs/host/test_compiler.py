"""A compiler that is there and cannot link its sanitizers is passed over, as on a Debian with clang alone."""

from pathlib import Path

import pytest

from .conftest import sanitizing_compiler


def command(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


BROKEN = "echo 'ld: cannot find libclang_rt.asan-x86_64.a' >&2; exit 1"
WORKING = 'while [ "$1" != -o ]; do shift; done; printf "#!/bin/sh\\n" >"$2"; chmod +x "$2"'


def test_a_clang_without_its_runtime_gives_way_to_gcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path / "bin", "clang", BROKEN)
    command(tmp_path / "bin", "gcc", WORKING)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")

    assert sanitizing_compiler(tmp_path) == "gcc"


def test_a_clang_that_can_link_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path / "bin", "clang", WORKING)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")

    assert sanitizing_compiler(tmp_path) == "clang"


@pytest.mark.parametrize("names", [[], ["clang"], ["clang", "gcc"]])
def test_no_compiler_that_can_link_is_none(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in names:
        command(tmp_path / "bin", name, BROKEN)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    assert sanitizing_compiler(tmp_path) is None
