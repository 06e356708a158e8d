"""What can be a disk: a raw file of whole pages, and nothing that only looks like one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.imagefile import image_bytes


@pytest.mark.parametrize("name", ["qcow2", "qcow", "qed", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_an_image_of_another_format_is_refused_by_name_whatever_its_size(name: str, tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("needs qemu-img: apt install qemu-utils")
    path = tmp_path / "disk.img"
    subprocess.run(["qemu-img", "create", "-q", "-f", name, str(path), "16M"], check=True)
    os.truncate(path, (path.stat().st_size + 4095) // 4096 * 4096)

    with pytest.raises(ConfigError, match=rf"disk\.img is a {'qcow2' if name == 'qcow' else name} image: .*qemu-img"):
        image_bytes(str(path))


@pytest.mark.parametrize(
    ("head", "name"), [(b"# Disk DescriptorFile\nversion=1\n", "vmdk"), (b"LUKS\xba\xbe\0\1aes", "luks")]
)
def test_a_head_that_only_other_formats_have_is_refused_by_name(head: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(head.ljust(4096))

    with pytest.raises(ConfigError, match=rf"disk\.img is a {name} image"):
        image_bytes(str(tmp_path / "disk.img"))


def test_what_a_guest_encrypts_itself_is_a_raw_image(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"LUKS\xba\xbe\0\2".ljust(8192))

    assert image_bytes(str(tmp_path / "disk.img")) == 8192


def test_what_is_no_file_is_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "disk.img")

    with pytest.raises(ConfigError, match="is not a file"):
        image_bytes(str(tmp_path / "disk.img"))
    with pytest.raises(ConfigError, match="is not a file"):
        image_bytes(str(tmp_path))


@pytest.mark.parametrize("size_bytes", [0, 1000, 4097])
def test_a_size_of_no_whole_pages_is_refused(size_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(size_bytes))

    with pytest.raises(ConfigError, match=f"has {size_bytes} bytes: its size must be a multiple of 4096, not 0"):
        image_bytes(str(tmp_path / "disk.img"))


def test_a_missing_image_is_told_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be opened: No such file.*truncate"):
        image_bytes(str(tmp_path / "disk.img"))
