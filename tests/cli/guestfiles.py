"""Guest files as tests write and read them."""

from pathlib import Path

from ftvm.cli.kinds import read_host
from ftvm.cli.settings import HostSettings

SOUND = 'listen = "tcp://127.0.0.1:0"\narbiter = "file://{folder}"\nguest = "vm1"\nmemory = "8M"\nprogram = "hello"\n'
QEMU_WITH = SOUND.replace('program = "hello"', 'kind = "qemu"')


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "vm1.toml"
    path.write_text(text.replace("{folder}", str(tmp_path)))
    return path


def settings(path: Path, *, boots: bool = True, **options: object) -> HostSettings:
    return read_host(path, {name.replace("_", "-"): value for name, value in options.items()}, boots=boots)


def complaints(told: HostSettings) -> list[str]:
    return [told.complaint(name) for name in told.problems]
