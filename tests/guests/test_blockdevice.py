"""What a block device is called: on each host that sees it, and for good on one."""

import os
import stat
from pathlib import Path

import pytest

from ftvm.guests import blockdevice


def system_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> os.stat_result:
    """Have the system say this of the device 8:3, a partition if there is a `start`, and return its status."""
    whole = folder / "devices/sda"
    place = whole / "sda3" if "start" in texts else whole
    for name, text in {**texts, **({"partition": "3"} if "start" in texts else {})}.items():
        path = (place if name in ("start", "partition") else whole) / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    place.mkdir(parents=True, exist_ok=True)
    (folder / "8:3").unlink(missing_ok=True)
    (folder / "8:3").symlink_to(place)
    monkeypatch.setattr(blockdevice, "_SYSFS", str(folder))
    status = os.stat_result((stat.S_IFBLK | 0o660, *[0] * 9), {"st_rdev": os.makedev(8, 3)})
    monkeypatch.setattr(os, "fstat", lambda _: status)
    return status


@pytest.mark.parametrize(
    "texts",
    [
        {"wwid": "naa.600508b1001c"},
        {"device__wwid": "naa.600508b1001c"},
        {"dm__uuid": "mpath-3600508b1001c"},
    ],
    ids=["disk", "SCSI disk", "several ways"],
)
def test_a_lun_has_one_name_on_each_host_that_sees_it(
    texts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts on one name are refused when they join."""
    system_of(tmp_path / "one", monkeypatch, wwid="naa.600508b1001c")
    first = blockdevice.image_name(0)

    system_of(tmp_path / "other", monkeypatch, **texts)

    assert blockdevice.image_name(0) == first
    assert first is not None
    assert len(first) == 16


def test_each_partition_of_a_lun_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for number, start in enumerate(("2048", "4096")):
        system_of(tmp_path / str(number), monkeypatch, wwid="naa.600508b1001c", start=start)
        names.add(blockdevice.image_name(0))

    assert len(names) == 2
    assert None not in names


@pytest.mark.parametrize("wwid", ["t10.QEMU    QEMU HARDDISK   drive-scsi0", "nvme.8086-6465", ""])
def test_a_serial_number_that_others_may_have_is_no_name_for_both_hosts(
    wwid: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = system_of(tmp_path, monkeypatch, wwid=wwid)

    assert blockdevice.image_name(0) is None
    assert blockdevice.lasting_name(tmp_path / "sda", status) == (wwid or str(tmp_path / "sda"))
