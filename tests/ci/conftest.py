"""The scripts of .ci as a module, and a small repository that has them and its own parts."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci"


@pytest.fixture(scope="session")
def evidence() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_evidence", CI / "evidence.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Repository:
    """A repository whose one part, `small`, is what a test says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "repository"
        self.cache = folder / "cache"
        (self.folder / ".ci" / "parts").mkdir(parents=True)
        for name in ("full", "lib", "evidence.py"):
            shutil.copy(CI / name, self.folder / ".ci" / name)
        self.script(".ci/prepare", "exit 0")
        self.git("init", "-q", "-b", "main")

    def script(self, path: str, text: str) -> None:
        (self.folder / path).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (self.folder / path).chmod(0o755)

    def part(self, text: str, name: str = "small") -> None:
        """Make a part, and commit it."""
        self.script(f".ci/parts/{name}", f"# Shows something small.\n# minutes: 5\n. .ci/lib\n{text}")
        self.commit()

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "Change something")

    def git(self, *words: str) -> str:
        command = ["git", "-c", "user.name=ftvm", "-c", "user.email=ftvm@localhost", *words]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def full(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.folder / ".ci" / "full", *words],
            env={**os.environ, "XDG_CACHE_HOME": str(self.cache), **settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    for name in [name for name in os.environ if name.startswith(("FTVM_", "GIT_"))]:
        monkeypatch.delenv(name)
    return Repository(tmp_path)
