import json
from pathlib import Path

import pytest

from ftvm.history.history import History
from ftvm.store.crypt import make_key
from ftvm.store.entry import EntryLevel

from ...history.test_pipeline import Host
from ...history.test_verify import damage_entry
from ...runtime.test_recording import record_console
from ..conftest import Run
from ..hostpair import WAIT_SECONDS, host, port_of_nobody, wait_for


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history of 120 epochs with a gap behind epoch 60."""
    host = Host(tmp_path_factory.mktemp("history") / "past")
    host.run(60)
    host.guest.commit()
    host.run(59)
    host.finish()
    return host.folder


def test_list_tells_stretches_gaps_and_snapshots(ftvm: Run, recorded: Path) -> None:
    with History.open(recorded) as past:
        past.snapshot("kept", 100)

    said = ftvm("history", "list", recorded)
    told = json.loads(ftvm("history", "list", recorded, "--json").out)

    assert said.status == 0
    assert "guest vm1: test/1" in said.out
    assert "gap: the next epoch does not follow" in said.out
    assert "snapshot kept: epoch 100" in said.out
    assert [each["last"] for each in told["stretches"]] == [60, 120]
    assert "epochs" not in told
    assert ftvm("history", "drop", recorded, "kept").status == 0


def test_list_tells_the_epochs_of_a_stretch_of_time(ftvm: Run, recorded: Path) -> None:
    said = ftvm("history", "list", recorded, "--since", "-0.5s")
    told = json.loads(ftvm("history", "list", recorded, "--since=-0.5s", "--json").out)

    assert "epoch 120 of stream 2" in said.out
    assert 18 <= len(told["epochs"]) <= 22


def test_show_tells_what_an_epoch_holds(ftvm: Run, recorded: Path) -> None:
    said = ftvm("history", "show", recorded, 110)
    told = json.loads(ftvm("history", "show", recorded, 110, "--json").out)

    assert "kind: fine" in said.out
    assert (told["epoch"], told["base"], told["position"]) == (110, 109, [110_000, 110])


def test_diff_names_the_pages_that_changed_most(ftvm: Run, recorded: Path) -> None:
    said = ftvm("history", "diff", recorded, 100, 110)
    told = json.loads(ftvm("history", "diff", recorded, 100, 110, "--json").out)

    pages = told["pages"]
    assert said.out.startswith(f"{len(pages)} pages differ, in ")
    assert all(each["region"] == "ram" and each["bytes_changed"] > 0 for each in pages)


def test_heat_is_a_map_of_memory_over_time(ftvm: Run, recorded: Path) -> None:
    said = ftvm("history", "heat", recorded, "--rows", 6, "--columns", 20)
    told = json.loads(ftvm("history", "heat", recorded, "--rows", 6, "--columns", 20, "--json").out)

    lines = said.out.splitlines()
    assert len(lines) == 7
    assert all(len(line.partition("|")[2]) == 21 for line in lines[1:])
    assert "@" in said.out
    assert [len(row) for row in told["rows"]] == [20] * 6


def test_heat_says_of_a_time_without_changes_that_nothing_changed(ftvm: Run, recorded: Path) -> None:
    said = ftvm("history", "heat", recorded, "--since=0", "--until=1")

    assert said.status == 0
    assert said.out.splitlines()[0].endswith(", nothing changed")


def test_heat_refuses_a_time_that_ends_before_it_begins(ftvm: Run, recorded: Path) -> None:
    said = ftvm("history", "heat", recorded, "--since=-0.2s", "--until=-0.5s")

    assert said.status == 2
    assert "begins after it ends" in said.err


def test_verify_says_that_all_is_well_or_what_is_damaged(ftvm: Run, tmp_path: Path) -> None:
    host = Host(tmp_path / "past")
    host.run(40)
    host.finish()

    assert "all entries read" in ftvm("history", "verify", tmp_path / "past").out
    assert json.loads(ftvm("history", "verify", tmp_path / "past", "--json").out)["damaged"] == []
    assert ftvm("history", "snapshot", tmp_path / "past", "mine", "40").status == 0

    segment = next(iter(sorted((tmp_path / "past" / "segments").iterdir())))
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    said = ftvm("history", "verify", tmp_path / "past")
    assert said.status == 1
    assert "damaged or cut off" in said.out
    assert said.out.endswith("nothing can be restored\nsnapshot 'mine' (epoch 40 of stream 1) is lost\n")
    assert "is damaged" in said.err

    as_json = ftvm("history", "verify", tmp_path / "past", "--json")
    assert as_json.status == 1
    assert "damaged or cut off" in json.loads(as_json.out)["damaged"][0]["reason"]


def test_verify_says_what_can_still_be_restored_from_a_damaged_history(ftvm: Run, tmp_path: Path) -> None:
    """Regression: it told the damage alone."""
    host = Host(tmp_path / "past")
    host.run(40)
    host.finish()
    for name, epoch in (("early", 20), ("late", 35)):
        assert ftvm("history", "snapshot", tmp_path / "past", name, epoch).status == 0
    damage_entry(tmp_path / "past", level=EntryLevel.FINE, part=0.8)

    said = ftvm("history", "verify", tmp_path / "past")
    as_json = json.loads(ftvm("history", "verify", tmp_path / "past", "--json").out)

    assert said.out.splitlines()[2:] == [
        "epochs 2 to 32 of stream 1 can still be restored",
        "epochs 39 to 40 of stream 1 can still be restored",
        "snapshot 'early' (epoch 20 of stream 1) can still be restored",
        "snapshot 'late' (epoch 35 of stream 1) is lost",
    ]
    assert [(run["first"], run["last"]) for run in as_json["restorable"]] == [(2, 32), (39, 40)]
    assert as_json["snapshots"] == ["early"]


def test_snapshot_drop_and_gc(ftvm: Run, tmp_path: Path) -> None:
    host = Host(tmp_path / "past")
    host.run(200)
    host.finish()

    assert "snapshot mine: epoch 57" in ftvm("history", "snapshot", tmp_path / "past", "mine", 57).out
    assert ftvm("history", "snapshot", tmp_path / "past", "mine").status == 2
    kept = ftvm("history", "gc", tmp_path / "past", "--keep", "all=1s,second=2s,minute=3s")
    assert kept.out.startswith("gave back")
    assert ftvm("history", "show", tmp_path / "past", 57).status == 0
    assert ftvm("history", "drop", tmp_path / "past", "yours").status == 2


def test_export_writes_plain_files(ftvm: Run, recorded: Path, tmp_path: Path) -> None:
    said = ftvm("history", "export", recorded, 110, tmp_path / "out")

    assert said.status == 0
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert (about["epoch"], about["regions"]) == (110, [["ram", 24]])
    assert (tmp_path / "out" / "ram.bin").stat().st_size == 24 * 4096
    assert (tmp_path / "out" / "devices.bin").read_bytes().endswith(b"110")
    assert (tmp_path / "out" / "ram.bin").stat().st_mode & 0o077 == 0
    assert ftvm("history", "export", recorded, 110, tmp_path / "out").status == 2


def test_pull_joins_the_halves_of_two_hosts(ftvm: Run, recorded: Path, tmp_path: Path) -> None:
    host = Host(tmp_path / "past")
    host.guest.epoch = 500
    host.run(30)
    host.finish()

    said = ftvm("history", "pull", tmp_path / "past", recorded)
    again = json.loads(ftvm("history", "pull", tmp_path / "past", recorded, "--json").out)

    assert said.out.count("took epochs") == 2
    assert again == {"taken": []}
    assert ftvm("history", "verify", tmp_path / "past").status == 0
    assert ftvm("history", "show", tmp_path / "past", 110).status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "complaint"),
    [
        (("list", "/nowhere"), 2, "holds no history"),
        (("show", "STORE", 999), 1, "epoch 999 is not in the history"),
        (("show", "STORE", 61), 1, "epoch 61"),
        (("diff", "STORE", 110, 100), 2, "not before"),
        (("list", "STORE", "--since", "yesterday"), 2, "no time"),
        (("list", "STORE", "--key", "/nowhere/key"), 2, "cannot be read"),
        (("gc", "STORE", "--keep", "all=forever"), 2, "not a number"),
    ],
)
def test_what_cannot_be_is_named(
    ftvm: Run, recorded: Path, arguments: tuple[object, ...], status: int, complaint: str
) -> None:
    said = ftvm("history", *(recorded if each == "STORE" else each for each in arguments))

    assert said.status == status
    assert complaint in said.err


def test_a_key_is_made_and_needed(ftvm: Run, tmp_path: Path) -> None:
    assert "keep a copy" in ftvm("history", "keygen", tmp_path / "key").out
    assert ftvm("history", "keygen", tmp_path / "another", "--json").out == f'{{"file": "{tmp_path / "another"}"}}\n'
    History.open(tmp_path / "past", create=True, key=tmp_path / "key").close()

    assert "give its key" in ftvm("history", "list", tmp_path / "past").err
    assert "nothing was recorded yet" in ftvm("history", "list", tmp_path / "past", "--key", tmp_path / "key").out


def test_a_clone_runs_from_an_epoch_and_is_compared(ftvm: Run, tmp_path: Path) -> None:
    epoch = record_console(tmp_path)
    (tmp_path / "guest.toml").write_text('kind = "riscv"\nmemory = "2M"\nnic = "udp:9001:9000"\n')

    said = ftvm("history", "run", tmp_path / "past", epoch, tmp_path / "guest.toml", "--seconds", 1)

    assert said.status == 0, said.err
    assert "outputs as recorded" in said.out
    assert "another than the recorded one" not in said.out
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('kind = "riscv"\nmemory = "4M"\nnic = "udp:9001:9000"\n')
    refused = ftvm("history", "run", tmp_path / "past", epoch, wrong)
    assert refused.status == 2
    assert "2 MiB / 4 MiB" in refused.err


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ('kind = "riscv"\nnic = "udp:0:9000"\n', "guest.toml:2: nic: "),
        ('memory = "64Q"\n', "guest.toml:1: memory: "),
        ('kind = "x"\n', "guest.toml:1: kind: "),
        ("memroy = 5\n", "guest.toml:1: memroy: "),
    ],
)
def test_a_guest_file_that_is_wrong_is_told_with_its_line_where_a_clone_needs_it(
    ftvm: Run, tmp_path: Path, file: str, complaint: str
) -> None:
    """It was told as a bug in ftvm."""
    epoch = record_console(tmp_path)
    (tmp_path / "guest.toml").write_text(file)

    refused = ftvm("history", "run", tmp_path / "past", epoch, tmp_path / "guest.toml")

    assert refused.status == 2
    assert complaint in refused.err


def recorded_epochs(ftvm: Run, folder: Path) -> int:
    if not (folder / "past").exists():
        return 0
    told = ftvm("history", "list", folder / "past", "--key", folder / "key", "--epochs", "--json")
    return len(json.loads(told.out)["epochs"]) if told.status == 0 else 0


@pytest.mark.parametrize("end", ["recording was stopped", "recording was not ended in order"])
def test_a_host_records_where_its_settings_say_also_if_it_is_killed(ftvm: Run, tmp_path: Path, end: str) -> None:
    port = port_of_nobody()
    make_key(tmp_path / "key")
    shared = ("--arbiter", f"file://{tmp_path}", "--heartbeat", "100", "--silence", "3000", "--control", "none")
    ticks = ("--program", "ticks", "--append", "ms=5 beats=0")  # an idle guest is cut once a second
    past = ("--history", str(tmp_path / "past"), "--history-key", str(tmp_path / "key"), "--history-keep", "all=5m")
    with (
        host("run", "--listen", f"tcp://127.0.0.1:{port}", "--create", *ticks, *shared) as primary,
        host(
            "standby", "--listen", "tcp://127.0.0.1:0", "--peer", f"tcp://127.0.0.1:{port}", *shared, *past
        ) as standby,
    ):
        wait_for(primary, "Protected")
        for _ in range(WAIT_SECONDS * 100):
            wait_for(standby, "Committed")
            if recorded_epochs(ftvm, tmp_path) > 20:  # on a busy machine the recorder is behind the commits
                break
        going_on = ftvm("history", "list", tmp_path / "past", "--key", tmp_path / "key").out
        if end == "recording was stopped":
            standby.terminate()
        else:
            standby.kill()
        standby.communicate(timeout=WAIT_SECONDS)

    told = json.loads(ftvm("history", "list", tmp_path / "past", "--key", tmp_path / "key", "--epochs", "--json").out)
    assert told["guest"] == "guest"
    assert len(told["epochs"]) > 20
    assert "being recorded" in going_on
    assert told["stretches"][-1]["ended"] == end
    assert ftvm("history", "verify", tmp_path / "past", "--key", tmp_path / "key").status == 0


def test_check_looks_at_the_history(ftvm: Run, recorded: Path, tmp_path: Path) -> None:
    file = tmp_path / "guest.toml"
    shared = f'arbiter = "file://{tmp_path}"\nlisten = "tcp://127.0.0.1:0"\nmemory = "2M"\n'

    def told(*lines: str) -> str:
        file.write_text(shared + "\n".join(lines) + "\n")
        return ftvm("check", file).out

    assert "the guest's past can be recorded" in told(f'history = "{tmp_path / "new"}"')
    assert "history of guest 'vm1': name another folder" in told(f'history = "{recorded}"')
    assert "a key of a history needs the history" in told('history-key = "key"')
    assert "not a number with one of" in told(f'history = "{recorded}"', 'history-keep = "all=ever"')
    assert not (tmp_path / "new").exists()


def test_what_is_written_or_dropped_is_told_as_json_too(ftvm: Run, recorded: Path, tmp_path: Path) -> None:
    with History.open(recorded) as past:
        past.snapshot("told", 100)

    dropped = json.loads(ftvm("history", "drop", recorded, "told", "--json").out)
    exported = json.loads(ftvm("history", "export", recorded, 110, tmp_path / "out", "--json").out)
    key = json.loads(ftvm("history", "keygen", tmp_path / "key", "--json").out)

    assert dropped == {"dropped": "told"}
    assert sorted(exported["files"]) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    assert key == {"file": str(tmp_path / "key")}
