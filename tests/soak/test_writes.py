"""The soak of writes begins in whatever folder it is told to use."""

from pathlib import Path

import pytest

from ftvm.errors import ConfigError
from ftvm.lab.qemuimage import make_image

from .writes import writing_image


def test_what_qemu_boots_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        make_image()
    except ConfigError as wrong:
        pytest.skip(str(wrong))
    monkeypatch.chdir(tmp_path)

    image = writing_image(Path())

    assert image.ramdisk.is_absolute()
    assert image.ramdisk.exists()
