"""A power cut while keys are made leaves no key or a whole one, which only its owner may read."""

import os
import stat
from pathlib import Path

import pytest

from ftvm.sim.mutation import Edit, Mutant, broken
from ftvm.testing import ContractBroken, PowerCuts
from ftvm.transport.curve import public_of
from ftvm.transport.keys import load_public, load_secret, write_keypair


def make_keys(folder: Path) -> PowerCuts:
    cuts = PowerCuts(folder)
    with cuts.recorded():
        write_keypair(folder / "host")
        cuts.mark("made")
    return cuts


def recover(folder: Path, marks: tuple[object, ...]) -> None:
    secret, public = folder / "host.key", folder / "host.pub"
    if secret.exists():
        load_secret(secret)
    if public.exists():
        assert public_of(load_secret(secret)) == load_public(public)
    assert public.exists() or not marks
    for path in folder.glob(".host.key*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_cut_leaves_no_key_or_a_whole_one_of_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        cuts = make_keys(tmp_path)
    finally:
        os.umask(before)

    assert cuts.check(recover) > 30


@pytest.mark.parametrize(
    ("function", "call"),
    [("_write_new", "os.fsync(fd)"), ("_write_new", "_sync_named(path)"), ("_sync_named", "os.fsync(fd)")],
)
def test_a_mutant_without_a_sync_is_found(tmp_path: Path, function: str, call: str) -> None:
    edit = Edit(f"ftvm.transport.keys:{function}", call, "pass")

    with broken(Mutant(name=call, breaks=call, edits=(edit,))):
        cuts = make_keys(tmp_path)

    with pytest.raises(ContractBroken, match="a power cut at any step"):
        cuts.check(recover)


def test_a_mutant_that_writes_under_the_keys_own_name_is_found(tmp_path: Path) -> None:
    edits = (
        Edit("ftvm.transport.keys:_write_new", 'path.with_name(f".{path.name}.{secrets.token_hex(8)}.aside")', "path"),
        Edit("ftvm.transport.keys:_write_new", "os.link(aside, path)", "pass"),
        Edit("ftvm.transport.keys:_write_new", "aside.unlink(missing_ok=True)", "pass"),
    )

    with broken(Mutant(name="in place", breaks="a key is written in place", edits=edits)):
        cuts = make_keys(tmp_path)

    with pytest.raises(ContractBroken, match=r"host.* is no ftvm (public|secret) key file"):
        cuts.check(recover)
