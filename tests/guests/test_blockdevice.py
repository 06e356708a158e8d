"""What a block device is called: on each host that sees it, and for good on one."""

import os
import stat
from pathlib import Path

import pytest

from ftvm.guests import blockdevice


def system_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> os.stat_result:
    """Have the system say this of the device 8:3, a partition if there is such a number, and return its status."""
    whole = folder / "devices/sda"
    place = whole / "sda3" if "partition" in texts else whole
    for name, text in texts.items():
        path = (place if name == "partition" else whole) / name.replace("__", "/")
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
    ("one", "other"),
    [
        ({"wwid": "naa.600508b1001c"}, {"device__wwid": "naa.600508b1001c"}),
        ({"wwid": "naa.600508b1001c"}, {"dm__uuid": "mpath-3600508b1001c"}),
        ({"wwid": "eui.0025388b710116"}, {"dm__uuid": "mpath-20025388b710116"}),
        ({"wwid": "eui.0025388b710116"}, {"dm__uuid": "mpath-eui.0025388b710116"}),
        ({"wwid": "uuid.7f2e9127-d490"}, {"dm__uuid": "mpath-uuid.7f2e9127-d490"}),
        ({"wwid": "naa.600508b1001c", "partition": "2"}, {"dm__uuid": "part2-mpath-3600508b1001c"}),
    ],
    ids=["SCSI disk", "several ways", "EUI-64", "NVMe by EUI-64", "NVMe by UUID", "partition"],
)
def test_a_lun_has_one_name_on_each_host_that_sees_it(
    one: dict[str, str], other: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts on one name are refused when they join."""
    system_of(tmp_path / "one", monkeypatch, **one)
    first = blockdevice.image_name(0)

    system_of(tmp_path / "other", monkeypatch, **other)

    assert blockdevice.image_name(0) == first
    assert first is not None
    assert len(first) == 16


def test_each_partition_of_a_lun_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for number in ("1", "2"):
        system_of(tmp_path / number, monkeypatch, wwid="naa.600508b1001c", partition=number)
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
