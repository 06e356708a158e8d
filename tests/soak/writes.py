"""Run a QEMU whose Linux writes to its disk as fast as it can, in a pair that nobody harms, beside processes that
compute: no takeover and no drop may come.

    python -m tests.soak.writes --minutes 30 --load 2

The guest is the demo's, with another init: it writes 64 MiB of what it drew at random over its disk, each round a page
further, and flushes. Prints one JSON line; fails at the first takeover, drop or suspicion, or if hardly anything was
written.
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ftvm.lab.qemuimage import INIT, QemuImage, make_image
from ftvm.lab.stage import HostCommands

from .stagehands import soak_pair

__all__ = ["main", "write_heavily"]

LOOK_SECONDS = 1.0
DISK_BYTES = 512 << 20
COMMITTED_MIB_A_MINUTE_MIN = 64
"""Less than that is no heavy writing: the guest did not come up, or its disk is stuck."""
WRITER = """\
dd if=/dev/urandom of=/tmp/drawn bs=1M count=64 2>/dev/null
(round=0; while :; do
  round=$((round + 1))
  dd if=/tmp/drawn of=/dev/vda bs=4k seek=$((round % 4 * 16384 + round % 64)) conv=notrunc,fsync 2>/dev/null
done) &
exec /service
"""


def _entry(name: str, mode: int, content: bytes) -> bytes:
    """Return one file of an archive as Linux unpacks it (newc)."""
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
    head = ("070701" + "".join(f"{number:08x}" for number in numbers) + name).encode() + b"\0"
    return b"".join(part + bytes(-len(part) % 4) for part in (head, content))


def writing_image(folder: Path) -> QemuImage:
    """Return the demo's image with an init that writes: Linux unpacks one archive behind the other.

    QEMU runs in a folder of its choice, so no path in it is relative.
    """
    image = make_image()
    init = INIT.replace("exec /service\n", WRITER).encode()
    more = _entry("init", 0o100755, init) + _entry("TRAILER!!!", 0, b"")
    ramdisk = folder.resolve() / "writing.gz"
    ramdisk.write_bytes(image.ramdisk.read_bytes() + gzip.compress(more))
    return replace(image, ramdisk=ramdisk)


def write_heavily(
    seconds: float, load: int, place: str | None = None, size_bytes: int = DISK_BYTES
) -> dict[str, object]:
    """Run a pair for so long; return what was seen, and what was told that must not be.

    place       the folder for the images: on a real device, not in memory
    size_bytes  of the disk; only its beginning is written
    """
    run = 0.0
    with tempfile.TemporaryDirectory(prefix="ftvm-writes-", dir=place) as name:
        folder = Path(name).resolve()
        for host in "AB":
            (folder / f"{host}.img").touch()
            os.truncate(folder / f"{host}.img", size_bytes)
        commands = HostCommands(guest="qemu", memory="256M", qemu_arguments=writing_image(folder).arguments())
        with soak_pair("--disk", f"{folder}/{{host}}.img", load=load, has_relay=False, commands=commands) as pair:
            while run < seconds and not pair.harm:
                pair.pass_time(LOOK_SECONDS)
                run += LOOK_SECONDS
            return {
                "minutes": round(run / 60, 2),
                "load": load,
                "load_average": round(os.getloadavg()[0], 2),
                "committed": pair.told["Committed"],
                "committed_mib": pair.pages // 256,
                "harm": pair.harm,
                "lines": list(pair.bad),
            }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.writes", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=int, default=2, help="processes that do nothing but compute")
    parser.add_argument("--folder", help="where the images are; a temporary folder if not given")
    parser.add_argument("--size", type=int, default=DISK_BYTES >> 20, help="of the disk, in MiB; it is sparse")
    options = parser.parse_args(arguments)
    found = write_heavily(options.minutes * 60, options.load, options.folder, options.size << 20)
    print(json.dumps(found))
    is_idle = int(str(found["committed_mib"])) < COMMITTED_MIB_A_MINUTE_MIN * options.minutes
    return 1 if found["harm"] or is_idle else 0


if __name__ == "__main__":
    sys.exit(main())
