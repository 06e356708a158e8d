"""The rig's Debian: what it is given beside its packages."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).with_name("rigscripts") / "debianimage.py"


def test_its_card_keeps_the_name_that_its_service_asks_for(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("debianimage", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for each in ("etc/systemd/system", "usr/share/base-passwd"):
        (tmp_path / each).mkdir(parents=True)
    for each in ("passwd", "group"):
        (tmp_path / "usr/share/base-passwd" / f"{each}.master").touch()

    script.furnish(tmp_path)

    names = tmp_path / "etc/systemd/network/99-default.link"  # by which udev calls a card on the PCI bus ens2
    assert str(names.readlink()) == "/dev/null"
    assert b"eth0" in (tmp_path / "usr/local/bin/service").read_bytes()
