"""Fetches Debian's packages for the rig and unpacks them: by apt, into separate folders, with the machine's sources.

Nothing is installed and no root is needed: apt is told that no package is installed and given its own folders, so it
downloads everything that is named, and all that this needs. Which mirror and which release: as the machine's own
sources say; the newer kernel and QEMU come from the backports of that release. Versions vanish from mirrors, so none is
named here; `manifest` says which were taken.
"""

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ftvm.lab.rig import RigMissing

__all__ = ["BACKPORTS", "NEWER", "STABLE", "make_tree", "require_tools"]

STABLE: Final = (
    *(
        "bash",
        "busybox-static",
        "coreutils",
        "dash",
        "findutils",
        "grep",
        "iproute2",
        "libstdc++6",
        "linux-image-cloud-amd64",
    ),
    *("mount", "procps", "python3", "qemu-system-x86", "qemu-utils", "sed", "util-linux"),
)
"""What the tree holds: what runs in the rig, the kernel that the protected guest boots, and QEMU as it is released."""

NEWER: Final = ("linux-image-cloud-amd64", "qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
"""What the tree has a second time, from the backports, in its own folder: both cannot be installed together."""

BACKPORTS: Final = "opt/backports"

TOOLS: Final = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "tar": "tar",
    "mke2fs": "e2fsprogs",
}
"""Programs that building needs, and the packages that have them."""

LEFT_OUT: Final = ("doc", "man", "locale", "iso-codes", "info", "lintian", "bug", "perl", "icons")
"""Folders of /usr/share that nothing in the rig reads."""

RELEASE: Final = Path("/etc/os-release")
FETCH_SECONDS_MAX: Final = 1800
_SBIN: Final = "/usr/sbin:/sbin"


def require_tools() -> None:
    """Raise RigMissing that names what is missing, unless the rig can be built here."""
    if platform.machine() != "x86_64":
        raise RigMissing(f"the rig needs an x86-64 machine, and this one is {platform.machine()}")
    for program, package in TOOLS.items():
        if find_tool(program) is None:
            raise RigMissing(f"the rig needs {program}: install Debian's package {package}")


def find_tool(program: str) -> str | None:
    """Return the path of a program, also of one that is for root."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")


def make_tree(tree: Path, scratch: Path) -> list[str]:
    """Unpack both sets of packages into the new folder `tree`; return the packages, as their file names.

    `scratch` is where apt keeps what it fetches; it may be deleted afterwards. Raises RigMissing, with what apt said,
    if a package cannot be had.
    """
    apt = _Apt(scratch)
    apt.run("update")
    stable = apt.fetch(STABLE)
    newer = [each for each in apt.fetch((*apt.of_backports(NEWER), *set(STABLE) - set(NEWER))) if each not in stable]
    for folder, packages in ((tree, stable), (tree / BACKPORTS, newer)):
        _prepare(folder)
        for package in packages:
            _unpack(package, folder)
    return [package.name for package in (*stable, *newer)]


class _Apt:
    """apt with its own folders, the Debian sources of this machine, and no package installed."""

    def __init__(self, scratch: Path) -> None:
        self._archives = scratch / "cache" / "archives"
        for folder in (scratch / "lists" / "partial", self._archives / "partial"):
            folder.mkdir(parents=True, exist_ok=True)
        self._release = _release()
        sources = scratch / "rig.list"
        sources.write_text("".join(f"deb {uri} {suite} main\n" for uri, suite in _sources(self._release)))
        settings = {
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": scratch / "lists",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": scratch / "cache",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Debug::NoLocking": "true",
        }
        self._options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]

    def run(self, *words: str) -> None:
        """Run apt-get. Raises RigMissing with its last words if it fails."""
        command = ["apt-get", "-q", "-y", *self._options, *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS_MAX, check=False)
        except subprocess.TimeoutExpired as late:
            raise RigMissing(f"apt-get {words[0]} did not end in {FETCH_SECONDS_MAX} s") from late
        if done.returncode != 0:
            said = "; ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
            raise RigMissing(f"the rig's packages cannot be had: apt-get {words[0]} said: {said}")

    def fetch(self, names: Sequence[str]) -> list[Path]:
        """Download packages and all that they need; return those files, sorted."""
        self.run("clean")
        self.run("install", "--download-only", *names)
        return sorted(self._kept(each) for each in self._archives.glob("*.deb"))

    def _kept(self, package: Path) -> Path:
        """Put a file where the next `clean` does not find it."""
        kept = self._archives.parent / package.name
        os.replace(package, kept)
        return kept

    def of_backports(self, names: Sequence[str]) -> list[str]:
        """Return names as apt wants them to take the package from the backports."""
        return [f"{name}/{self._release}-backports" for name in names]


def _release() -> str:
    """Return the code name of the Debian that this is. Raises RigMissing elsewhere."""
    lines = RELEASE.read_text().splitlines() if RELEASE.exists() else []
    facts = dict(line.split("=", 1) for line in lines if "=" in line)
    name = facts.get("VERSION_CODENAME", "").strip('"')
    if facts.get("ID", "").strip('"') != "debian" or not name:
        raise RigMissing("the rig is built from Debian's packages, and this machine is no Debian with a release")
    return name


def _sources(release: str) -> list[tuple[str, str]]:
    """Return (address, suite) of the machine's own sources of Debian, and of the backports beside the release."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    rows = {tuple(row) for line in said.splitlines() if len(row := line.split()) == 3}
    found = {(uri, suite) for uri, suite, component in rows if component == "main" and suite.startswith(release)}
    homes = sorted(uri for uri, suite in found if suite == release)
    if not homes:
        raise RigMissing(f"apt has no source of Debian's release {release} on this machine")
    return sorted(found | {(homes[0], f"{release}-backports")})


def _prepare(folder: Path) -> None:
    """Make a root as Debian has it, where /bin and /lib are in /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(f"usr/{name}")


def _unpack(package: Path, folder: Path) -> None:
    left_out = [f"--exclude=./usr/share/{name}" for name in LEFT_OUT]
    options = ["--keep-directory-symlink", "--no-same-owner", "--no-same-permissions", *left_out]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as reader:
        writer = subprocess.run(
            ["tar", "-C", folder, "-x", *options], stdin=reader.stdout, capture_output=True, text=True, check=False
        )
    if reader.returncode != 0 or writer.returncode != 0:
        raise RigMissing(f"the package {package.name} cannot be unpacked: {writer.stderr.strip()[-300:]}")
