#!/usr/bin/env python3
"""Makes a disk image of a small Debian, of the release of this machine, with systemd, for the rig's failovers.

Its packages come as the rig's do: fetched by apt, unpacked, nothing installed, no root needed. It boots with a kernel
and a ramdisk beside it, which loads the modules of the disk and hands over to systemd. Its services tell on ttyS0 what
failover.py judges: beats, clocks, looks at memory, records on the disk; and answer the lab's client.

    python tests/lab/rigscripts/debianimage.py FOLDER

It is made once: the last line is the image's path. Exit status 77 if a package cannot be had.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import xxhash

from ftvm.lab.qemuimage import PROGRAMS
from ftvm.lab.rig import RigMissing, packages
from ftvm.lab.rig.packages import find_tool

EXIT_MISSING = 77
IMAGE_MIB = 256
NAMES = (
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "e2fsprogs", "findutils", "grep", "hostname"),
    *("iproute2", "login", "mount", "procps", "sed", "systemd-sysv", "udev", "util-linux"),
)
UNUSED = (
    "usr/share/perl*",
    "usr/lib/x86_64-linux-gnu/perl*",
    "usr/lib/x86_64-linux-gnu/libperl*",
    "usr/share/zoneinfo",
)
"""Of packages that only the installation of others needs."""

GUEST = """\
#!/bin/bash
source=$(</sys/devices/system/clocksource/clocksource0/current_clocksource)
echo "boot $(</proc/sys/kernel/random/boot_id) $source $(nproc)"
/usr/local/bin/work 32 &
(record=0; while :; do
  record=$((record + 1)); echo $record >>/var/records; sync /var/records
  if [ $((record % 5)) = 0 ]; then
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(seq 1 $record)" = "$(</var/records)" ] && look=same || look=differ
    echo "disk $record records $look"
  fi
  sleep 0.1
done) &
beat=0
while :; do
  beat=$((beat + 1))
  read -r up _ </proc/uptime
  printf 'beat %d up %s real %(%s)T end\\n' $beat $up -1
  echo "<4>stamp $beat end" >/dev/kmsg
  sleep 0.2
done
"""
UNIT = """\
[Unit]
Description={name}
[Service]
ExecStart=/usr/local/bin/{name}
StandardOutput={output}
StandardError=inherit
TTYPath=/dev/ttyS0
[Install]
WantedBy=multi-user.target
"""
UNITS = {"guest": "tty", "service": "null"}
"""The services, and where they speak: one alone has the console, whose lines would else mix."""
MASKED = (
    *("serial-getty@ttyS0.service", "getty.target", "systemd-networkd.service", "systemd-timesyncd.service"),
    *("systemd-logind.service", "e2scrub_reap.service"),
)
"""What would speak on the console, too, or do something that nobody asked for."""
UNNAMED = "etc/systemd/network/99-default.link"
"""Hidden, it gives cards no names: the service asks for eth0, and udev would call a card on the PCI bus ens2."""
FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/hostname": "guest\n",
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "usr/local/bin/guest": GUEST,
    **{f"etc/systemd/system/{name}.service": UNIT.format(name=name, output=output) for name, output in UNITS.items()},
}


def make(image: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ftvm-debian-") as name:
        tree, scratch = Path(name) / "tree", Path(name) / "scratch"
        unpack(tree, scratch)
        for pattern in UNUSED:
            for path in tree.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        furnish(tree)
        aside = image.with_suffix(".new")
        command = [find_tool("mke2fs") or "mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(tree)]
        subprocess.run([*command, str(aside), f"{IMAGE_MIB}M"], check=True)
        aside.rename(image)


def unpack(tree: Path, scratch: Path) -> None:
    """Fetch the packages and all that they need, and unpack them into the new folder `tree`. Raises RigMissing."""
    apt = packages._Apt(scratch)
    apt.run("update")
    found = apt.fetch(NAMES)
    packages._prepare(tree)
    for package in found:
        packages._unpack(package, tree)


def furnish(tree: Path) -> None:
    """Write what an installation would have made, and the guest's services."""
    for each in ("dev", "proc", "sys", "run", "tmp", "root", "var/tmp", "var/log", "usr/local/bin"):
        (tree / each).mkdir(parents=True, exist_ok=True)
    for each in ("passwd", "group"):
        shutil.copy(tree / "usr/share/base-passwd" / f"{each}.master", tree / "etc" / each)
    for each, text in FILES.items():
        (tree / each).write_text(text)
    for each in PROGRAMS:
        shutil.copy(PROGRAMS[each], tree / "usr/local/bin" / each)
    for path in (tree / "usr/local/bin").iterdir():
        path.chmod(0o755)
    units = tree / "etc/systemd/system"
    (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    for each in UNITS:
        (units / "multi-user.target.wants" / f"{each}.service").symlink_to(f"../{each}.service")
    for each in MASKED:
        (units / each).symlink_to("/dev/null")
    (tree / UNNAMED).parent.mkdir(parents=True, exist_ok=True)
    (tree / UNNAMED).symlink_to("/dev/null")
    (units / "default.target").unlink(missing_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the image is kept")
    folder: Path = parser.parse_args().folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    digest = xxhash.xxh3_64_hexdigest(Path(__file__).read_bytes() + Path(packages.__file__).read_bytes())
    image = folder / f"debian-{digest}.img"
    try:
        if not image.exists():
            make(image)
    except RigMissing as wrong:
        print(f"skipped: {wrong}", file=sys.stderr)
        return EXIT_MISSING
    print(image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
