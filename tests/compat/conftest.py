"""The release before, built once and kept: from the repository's history, beside the libraries of the tree's own tests.

It is found by its commit, as a clone need not have brought the tags. Without the history (a source archive) the tests
are skipped; where FTVM_CI is set that is a failure (tests/conftest.py).
"""

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
BEFORE: Final = ("v0.1.0", "08619d6a259b73c5915d0ecd2b0cc6044fc0aa48")
"""The release before and its commit. Whoever tags a release writes it here: the tree is held to it from then on."""

BUILD_SECONDS: Final = 280


@dataclass(frozen=True, slots=True)
class Release:
    """A release that can be run. `site` is what its package was installed to, None for the tree itself."""

    name: str
    site: Path | None

    @property
    def python(self) -> str:
        """The interpreter: for an older release one that does not see the tree's editable installation."""
        return sys.executable if self.site is None else getattr(sys, "_base_executable", sys.executable)

    def environment(self) -> dict[str, str]:
        """Return the environment in which its package, and the libraries of the tree's tests, are found."""
        if self.site is None:
            return dict(os.environ)
        places = (str(self.site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
        return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places))}


TREE: Final = Release("the tree", None)


@pytest.fixture(scope="session")
def before() -> Release:
    """Return the release before, built if that was not done yet."""
    name, commit = BEFORE
    if not has_commit(commit):
        pytest.skip(f"no git history with {name} ({commit[:7]}) here to build the release before from")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftvm-tests"
    site = cache / f"{name}-{commit[:12]}-{sys.implementation.cache_tag}-{platform.machine()}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest processes want it at once
        if not site.exists():
            build(commit, site)
    release = Release(name, site)
    where = [release.python, "-P", "-c", "import ftvm; print(ftvm.__file__)"]
    found = subprocess.run(where, env=release.environment(), capture_output=True, text=True, check=True).stdout
    assert Path(found).is_relative_to(site), f"{found} would be run in the place of {name}"
    return release


def has_commit(commit: str) -> bool:
    try:
        asked = subprocess.run(
            ["git", "-C", ROOT, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False
        )
    except FileNotFoundError:
        return False
    return asked.returncode == 0


def build(commit: str, site: Path) -> None:
    """Install the package of a commit into a folder that appears only once it is whole."""
    with tempfile.TemporaryDirectory(prefix="ftvm-before-", dir=site.parent) as work:
        source, made = Path(work) / "source", Path(work) / "site"
        archive = Path(work) / "source.tar"
        subprocess.run(["git", "-C", ROOT, "archive", "-o", archive, commit], check=True)
        with tarfile.open(archive) as content:
            content.extractall(source, filter="data")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", made, source]
        done = subprocess.run(install, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
        if done.returncode != 0:
            pytest.fail(f"the release before does not build: {done.stderr[-2000:]}")
        shutil.move(made, site)
