"""The ELF files that ship for the KVM machine are what their sources make."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ftvm.guests.kvm.programs import SUMMARIES, read_program

SOURCES = Path(__file__).parents[3] / "examples" / "kvm"


def _compilers_named_in(elf: bytes) -> set[bytes]:
    return set(re.findall(rb"GCC: \([^)]*\) [0-9.]+", elf))


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("gcc", "make"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    folder = tmp_path_factory.mktemp("rebuilt")
    subprocess.run(["make", "-s", "-C", SOURCES, f"OUT={folder}"], check=True, timeout=300)
    return folder


@pytest.mark.parametrize("name", sorted(SUMMARIES))
def test_a_program_that_ships_is_what_its_sources_make(rebuilt: Path, name: str) -> None:
    built = (rebuilt / f"{name}.elf").read_bytes()
    if _compilers_named_in(built) != _compilers_named_in(read_program(name)):
        pytest.skip(f"the compiler here is another than the one that {name}.elf names, so its bytes may differ")

    assert built == read_program(name), f"{name}.elf is old: run `make -C examples/kvm publish`"
