"""The rig: made of what it says, told what is missing, and no machine of it outlives its command.

Whether it boots is shown by `.ci/full rig`; here a program stands in for its QEMU.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from ftvm.lab.rig import RigFailed, RigMissing, __main__, checkout, image, packages
from ftvm.lab.rig.image import RigImage, load_order
from ftvm.lab.rig.machine import RigRun, run_script

QEMU = """\
#!/bin/sh
# Stands in for the loader that runs the outer QEMU: finds its serial ports among the arguments.
for word; do case $word in file:*/console) console=${word#file:};; file:*/status) status=${word#file:};; esac; done
"""
"""What each test's stand-in begins with."""


def fake_image(folder: Path, does: str) -> RigImage:
    """Return an image whose QEMU is a shell script."""
    loader = folder / "tree" / "lib64" / "ld-linux-x86-64.so.2"
    loader.parent.mkdir(parents=True)
    loader.write_text(QEMU + does)
    loader.chmod(0o755)
    files = [folder / name for name in ("vmlinuz", "ramdisk", "root.img", "checkout.img")]
    for file in files:
        file.write_bytes(b"")
    return RigImage(tree=folder / "tree", kernel=files[0], ramdisk=files[1], disks=(files[2], files[3]))


def script_in(folder: Path) -> Path:
    script = folder / "script.sh"
    script.write_text("#!/bin/sh\n")
    return script


def test_output_and_status_come_back(tmp_path: Path) -> None:
    image = fake_image(tmp_path, "echo one; echo two; echo 7 >$status")
    taken: list[bytes] = []

    status = run_script(image, RigRun(script=script_in(tmp_path)), taken.append)

    assert status == 7
    assert b"".join(taken) == b"one\ntwo\n"


def test_a_rig_that_ends_without_a_status_is_told_with_the_end_of_its_console(tmp_path: Path) -> None:
    image = fake_image(tmp_path, "echo 'Kernel panic - not syncing' >$console")

    with pytest.raises(RigFailed, match=r"before its script did(.|\n)*Kernel panic"):
        run_script(image, RigRun(script=script_in(tmp_path)), lambda _: None)


def test_a_rig_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    image = fake_image(tmp_path, "exec tail -f $status /dev/null")

    with pytest.raises(RigFailed, match=r"not done in 0\.5 s"):
        run_script(image, RigRun(script=script_in(tmp_path), seconds=0.5), lambda _: None)

    assert running_with(tmp_path) == []


def running_with(folder: Path) -> list[str]:
    """Return the processes whose command line names a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if str(folder).encode() in words and int(file.parent.name) != os.getpid():
            found.append(file.parent.name)
    return found


MAIN = """
import sys
from pathlib import Path
from ftvm.lab.rig import __main__
sys.path.insert(0, {here!r})
from test_rig import fake_image
image = fake_image(Path({folder!r}), {does!r})
__main__.make_rig = lambda *words, **names: image
__main__.main()
"""


def test_ctrl_c_ends_its_machine(tmp_path: Path) -> None:
    does = f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; exec tail -f {tmp_path}/pid"
    source = MAIN.format(here=str(Path(__file__).parent), folder=str(tmp_path), does=does)
    command = [sys.executable, "-c", source, str(script_in(tmp_path))]

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "pid").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]

    assert process.returncode == 130
    assert "stopped by SIGINT" in said
    assert running_with(tmp_path) == []


def test_the_machine_runs_at_the_lowest_priority_in_its_own_session(tmp_path: Path) -> None:
    image = fake_image(tmp_path, "cut -d' ' -f6,19 /proc/self/stat; echo 0 >$status")
    taken: list[bytes] = []

    run_script(image, RigRun(script=script_in(tmp_path)), taken.append)

    session, nice = b"".join(taken).split()
    assert int(session) != os.getsid(0)
    assert nice == b"19"


def test_more_disks_come_behind_those_of_the_rig_and_are_not_written_to(tmp_path: Path) -> None:
    image = fake_image(tmp_path, "for word; do echo $word; done; echo 0 >$status")
    disk = tmp_path / "a,b.img"
    taken: list[bytes] = []

    run_script(image, RigRun(script=script_in(tmp_path), disks=(disk,)), taken.append)

    drives = [word for word in b"".join(taken).decode().splitlines() if word.endswith("if=virtio,snapshot=on")]
    assert len(drives) == 3
    assert drives[2].startswith(f"file={tmp_path}/a,,b.img,format=raw")


def test_json_has_the_status_and_what_the_script_said_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_image(tmp_path, """echo noise; echo '{"beats": 3}'; echo 1 >$status""")
    monkeypatch.setattr(__main__, "make_rig", lambda *_, **__: fake)
    monkeypatch.setattr(__main__, "_end_on_signals", lambda: None)

    ended = CliRunner().invoke(__main__.rig, [str(script_in(tmp_path)), "--json"])

    assert ended.exit_code == 1
    told = json.loads(ended.stdout)
    assert (told["status"], told["kernel"], told["result"]) == (1, "6.12", {"beats": 3})


def test_what_is_missing_is_a_skip_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "TOOLS", {"no-such-program": "e2fsprogs"})
    monkeypatch.setattr(__main__, "_end_on_signals", lambda: None)

    ended = CliRunner().invoke(__main__.rig, [str(script_in(tmp_path)), "--json", "--folder", str(tmp_path / "rig")])

    assert ended.exit_code == 77
    assert "skipped: the rig needs no-such-program: install Debian's package e2fsprogs" in ended.stderr
    assert json.loads(ended.stdout)["error"]["type"] == "RigMissing"


def test_another_system_than_debian_is_named_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=other\nVERSION_CODENAME="twelve"\n')
    monkeypatch.setattr(packages, "RELEASE", release)

    with pytest.raises(RigMissing, match="no Debian"):
        packages.make_tree(tmp_path / "tree", tmp_path / "scratch")


def test_a_python_of_another_version_is_named_as_missing(tmp_path: Path) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin" / "python3.99").touch()

    with pytest.raises(RigMissing, match=r"Python 3\.99"):
        checkout.require_python(tmp_path)


def test_modules_are_loaded_behind_what_they_need(tmp_path: Path) -> None:
    needs = {"kvm-amd": "kvm,ccp", "kvm": "irqbypass", "irqbypass": "", "other": ""}
    for name, needed in needs.items():
        (tmp_path / f"{name}.ko").write_bytes(f"{name}\0depends={needed}\0".encode())

    loaded = [content.split(b"\0")[0].decode() for content in load_order(tmp_path, ("kvm_amd", "absent", "kvm"))]

    assert loaded == ["irqbypass", "kvm", "kvm-amd"]


def test_what_was_built_halfway_is_not_taken_for_whole(tmp_path: Path) -> None:
    place = tmp_path / "base"

    def fail(aside: Path) -> None:
        (aside / "tree").mkdir(parents=True)
        raise OSError("no space left")

    with pytest.raises(RigFailed, match="no space left"):
        image._made_aside(place, fail)

    assert list(tmp_path.iterdir()) == []


def test_what_was_not_used_for_longest_is_deleted(tmp_path: Path) -> None:
    for age, name in enumerate("abcde"):
        (tmp_path / f"checkout-{name}.img").touch()
        os.utime(tmp_path / f"checkout-{name}.img", (age, age))

    image._prune(tmp_path, (tmp_path / "checkout-a.img",))

    assert sorted(path.name[9] for path in tmp_path.iterdir()) == ["a", "c", "d", "e"]


def test_the_checkout_has_ftvm_its_core_and_what_both_need(tmp_path: Path) -> None:
    checkout.gather(tmp_path)

    imported = "import ftvm._native._core, click, zmq; from importlib.metadata import version; version('ftvm')"
    command = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); {imported}"]
    subprocess.run(command, check=True, timeout=120)
    assert (tmp_path / "tests" / "lab" / "test_rig.py").is_file()
