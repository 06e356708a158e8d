"""Gathers what the rig runs of this checkout: ftvm as it is imported here, the packages that it needs, its tests.

The Python of the rig is Debian's; compiled packages are made for one version of Python, so this one must be the same.
"""

import compileall
import py_compile
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

import ftvm
from ftvm._native import _core
from ftvm.lab.rig import RigMissing

__all__ = ["SITE", "compile_tree", "gather", "require_python"]

ALSO: Final = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "cryptography", "pyelftools")
"""Packages beside those that ftvm needs: for tests. What is not here is left out."""

WITH: Final = ("tests", "examples", "pyproject.toml")
"""What goes along from the repository, if this is a checkout."""

SITE: Final = "site"


def require_python(tree: Path) -> None:
    """Raise RigMissing unless the tree's Python is of the version of this one."""
    theirs = " or ".join(sorted(path.name.removeprefix("python") for path in tree.glob("usr/bin/python3.*[0-9]")))
    ours = ".".join(map(str, sys.version_info[:2]))
    if ours != theirs:
        raise RigMissing(f"the rig has Debian's Python {theirs}, and this is {ours}: run it with Python {theirs}")


def gather(folder: Path) -> None:
    """Copy all into `folder`: Python packages to site/, the rest beside it."""
    site = folder / SITE
    ours = Path(ftvm.__file__).parent
    shutil.copytree(ours, site / "ftvm", ignore=shutil.ignore_patterns("__pycache__", "*.[ch]", "*.cdef"))
    for built in Path(_core.__file__).parent.glob("*.so"):
        shutil.copy2(built, site / "ftvm" / "_native" / built.name)
    for name in sorted(_needed()):
        _copy_distribution(metadata.distribution(name), site)
    for name in WITH:
        _copy(ours.parent / name, folder / name)


def compile_tree(folder: Path, place: str) -> None:
    """Make bytecode for all modules of a folder that will be at `place`: to compile them there takes minutes."""
    compileall.compile_dir(
        folder,
        quiet=2,
        stripdir=str(folder),
        prependdir=place,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _needed() -> set[str]:
    """Return the names of all distributions that ftvm needs, and of those in ALSO that are installed."""
    wanted, found = ["ftvm", *ALSO], set[str]()
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            required = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        wanted += [_name_in(each) for each in required if "extra ==" not in each]
    return found


def _name_in(requirement: str) -> str:
    """Return the name that a requirement begins with."""
    return requirement[: next((at for at, sign in enumerate(requirement) if sign in " ;<>=!~[("), None)]


def _copy_distribution(distribution: metadata.Distribution, site: Path) -> None:
    """Copy what was installed; of ftvm, which may be installed as a mere link to its sources, what says its version."""
    is_ours = distribution.metadata["Name"] == "ftvm"
    for file in distribution.files or []:
        if ".." not in file.parts and file.suffix != ".pyc" and (not is_ours or ".dist-info" in file.parts[0]):
            _copy(Path(str(file.locate())), site / str(file))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"), dirs_exist_ok=True)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
