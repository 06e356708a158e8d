"""The ramdisk: made of what is installed, made once, and its programs are those of the sources."""

import gzip
import shutil
import subprocess
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.lab import qemuimage
from ftvm.lab.qemuimage import make_image

SOURCES = Path(__file__).parents[2] / "examples" / "qemu"


@pytest.fixture
def installed() -> None:
    try:
        qemuimage.find_kernel()
    except ConfigError as wrong:
        pytest.skip(str(wrong))


@pytest.mark.usefixtures("installed")
def test_ramdisk_is_made_once_and_holds_what_the_guest_needs(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    made_at = image.ramdisk.stat().st_mtime_ns

    again = make_image(tmp_path)

    assert again == image
    assert image.ramdisk.stat().st_mtime_ns == made_at
    listed = subprocess.run(
        ["cpio", "-t", "--quiet"], input=gzip.decompress(image.ramdisk.read_bytes()), capture_output=True, check=True
    ).stdout.decode()
    assert {"init", "service", "work", "bin/busybox", "dev/console", "modules/00.ko"} <= set(listed.split())


@pytest.mark.usefixtures("installed")
def test_boot_arguments_are_added_to_the_kernels_own(tmp_path: Path) -> None:
    words = make_image(tmp_path).arguments("ftvm_disk=1")

    assert words[words.index("-append") + 1] == "console=ttyS0 quiet ftvm_disk=1"


def test_a_missing_kernel_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemuimage, "BOOT", tmp_path)

    with pytest.raises(ConfigError, match="linux-image-cloud-amd64"):
        make_image(tmp_path)


@pytest.mark.usefixtures("installed")
def test_a_missing_busybox_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemuimage, "BUSYBOX", tmp_path / "none")

    with pytest.raises(ConfigError, match="busybox-static"):
        make_image(tmp_path)


def test_programs_can_be_built_from_the_sources(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or not SOURCES.is_dir():
        pytest.skip("needs gcc and the sources")

    subprocess.run(["make", "-s", "-C", SOURCES, f"OUT={tmp_path}"], check=True, timeout=120)

    for name, built in qemuimage.PROGRAMS.items():
        made = (tmp_path / f"{name}.elf").read_bytes()
        assert made[:20] == built.read_bytes()[:20]
        assert abs(len(made) - built.stat().st_size) < 2_000
