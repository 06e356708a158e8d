"""What can be a disk: a raw file of whole pages, and nothing that only looks like one."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.guests.disk.disk import Disk
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


def test_a_block_device_is_refused_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    status = os.stat_result((0o60660, *os.stat("/dev/null")[1:]))
    monkeypatch.setattr(os, "stat", lambda _: status)
    monkeypatch.setattr(os, "fstat", lambda _: status)

    with pytest.raises(ConfigError, match=r"the disk /dev/null is a block device .*not supported yet; .*dd"):
        image_bytes("/dev/null")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 1 MiB, behind a file of the same content."""
    file = tmp_path / "behind.img"
    file.write_bytes(b"d" * (1 << 20))
    try:
        made = subprocess.run(["losetup", "-f", "--show", str(file)], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as wrong:
        pytest.skip(f"needs a loop device: {wrong}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


@pytest.mark.parametrize("open_one", [image_bytes, lambda path: Disk(path, boots=True)], ids=["size", "disk"])
def test_a_real_block_device_is_refused_by_name_and_nothing_is_left_beside_it(
    open_one: Callable[[str], object], device: Path, tmp_path: Path
) -> None:
    link = tmp_path / "disk.img"
    link.symlink_to(device)

    with pytest.raises(ConfigError, match=r"disk\.img is a block device .*not supported yet; .*dd"):
        open_one(str(link))

    assert sorted(path.name for path in tmp_path.iterdir()) == ["behind.img", "disk.img"]
    assert not device.with_name(device.name + ".label").exists()
    assert (tmp_path / "behind.img").read_bytes() == b"d" * (1 << 20)


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
