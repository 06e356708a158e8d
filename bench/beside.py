"""An ftvm of before, to measure beside this one: its tree and a virtual environment for it in a cache folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PREPARE_SECONDS = 600


class NotPreparedError(Exception):
    """A revision cannot be had; the message says why."""


def cache_folder() -> Path:
    """Return where trees are kept from one run to the next."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ftvm-bench"


def python_of(revision: str) -> str:
    """Return the Python that has the ftvm of a revision; it is built once. Raises NotPreparedError."""
    commit = _call(
        "git", "-C", str(ROOT), "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"
    ).strip()
    home = cache_folder() / commit
    python = home / "venv" / "bin" / "python"
    if (home / "ready").exists():
        return str(python)
    shutil.rmtree(home, ignore_errors=True)
    (home / "tree").mkdir(parents=True)
    archive = home / "tree.tar"
    _call("git", "-C", str(ROOT), "archive", "--output", str(archive), commit)
    _call("tar", "-xf", str(archive), "-C", str(home / "tree"))
    archive.unlink()
    _call(sys.executable, "-m", "venv", str(home / "venv"))
    _call(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(home / "tree"))
    (home / "ready").touch()
    return str(python)


def _call(*words: str) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PREPARE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as wrong:
        raise NotPreparedError(f"{words[0]} failed: {wrong}") from wrong
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise NotPreparedError(f"{' '.join(words[:3])} failed: {reason}")
    return done.stdout
