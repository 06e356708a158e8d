"""The build script of the Linux guest: what it can be held to without a compiler or a kernel."""

import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import pytest

from ftvm.guests.elf import parse_elf

SCRIPT = Path(__file__).parents[3] / "examples" / "linux" / "build.py"
RAM_BASE = 0x80000000


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("linux_build", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _image(memory_bytes: int) -> bytes:
    return struct.pack("<QQQ", 0, 0, memory_bytes).ljust(0x38, b"\0") + b"RSC\x05" + b"code" * 10


def test_an_image_becomes_an_elf_file_that_the_machine_loads(script: ModuleType) -> None:
    image = _image(memory_bytes=5000)

    program = parse_elf(script.elf_around(image), ram_base=RAM_BASE, ram_bytes=1 << 20)

    assert program.entry == RAM_BASE
    assert [(segment.address, segment.content[: len(image)]) for segment in program.segments] == [(RAM_BASE, image)]


def test_what_is_no_kernel_image_is_refused(script: ModuleType) -> None:
    with pytest.raises(script.BuildError, match="no RISC-V header"):
        script.elf_around(bytes(100))


def test_the_flat_header_says_where_data_begins_and_what_is_cleared(script: ModuleType) -> None:
    header = script.flat_header(data=0x100, data_end=0x180, end=0x1000)

    assert len(header) == 64
    assert header[:4] == b"bFLT"
    assert struct.unpack(">10I", header[4:44]) == (4, 64, 0x100, 0x180, 0x1000, 16384, 0x180, 0, 1, 0)


def test_an_option_that_the_kernel_dropped_stops_the_build(script: ModuleType, tmp_path: Path) -> None:
    wish, got = tmp_path / "wish", tmp_path / "got"
    wish.write_text("# words\nCONFIG_NET=y\nCONFIG_INET=y\n# CONFIG_SMP is not set\n")
    got.write_text("CONFIG_NET=y\n")

    with pytest.raises(script.BuildError, match=r"dropped: CONFIG_INET=y$"):
        script.check_config(wish, got)


def test_missing_tools_are_named_by_their_packages(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    status = script.main([str(tmp_path / "cache")])

    assert status == 1
    assert "please install (Debian): gcc-riscv64-linux-gnu" in capsys.readouterr().err


def test_a_folder_that_the_kernel_cannot_be_built_in_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(script, "check_tools", lambda: None)

    status = script.main([str(tmp_path / "with space")])

    assert status == 1
    assert "no spaces or colons" in capsys.readouterr().err
