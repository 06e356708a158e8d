"""A stock Linux under a stock QEMU lives on when its host dies: same boot, no word twice or lost, under each engine."""

import os
import re
import signal
from pathlib import Path

import pytest

from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import ConfigError, GuestError
from ftvm.guests.disk.disk import Disk
from ftvm.guests.disk.label import Label, newer, read_label
from ftvm.guests.qemu import QemuGuest
from ftvm.runtime.protection import Protection, Standby, protect
from ftvm.units import Nanos

from ...runtime.live import PATIENT, Ear, kill, start_pair
from .conftest import PATIENCE_S, Guests

MS = 1_000_000
TIMING = Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(1_000 * MS), primary_limit_ns=Nanos(3_000 * MS))


class LinuxEar(Ear):
    """Hears how far a Linux guest counts."""

    def counts(self) -> list[int]:
        return [int(count) for count in re.findall(r"count (\d+)\r?\n", self.text())]

    def wait_count(self, count: int) -> None:
        self.wait_until(lambda _: self.counts()[-1:] >= [count])

    def records(self) -> list[int]:
        """Return the records that it has said are on its disk."""
        return [int(record) for record in re.findall(r"disk record (\d+)\r?\n", self.text())]

    def wait_records(self, count: int) -> None:
        """Wait until it has said so of that many: to write one may take it long where it has little of a processor."""
        self.wait_until(lambda _: len(self.records()) >= count)


def start(
    ear: Ear, guests: Guests, folder: Path, engine: str, timing: Timing = TIMING
) -> tuple[Protection, QemuGuest, Standby, QemuGuest]:
    booted, blank = guests.loaded(), guests.blank()
    chosen = engine_named(engine, 0.05)
    primary, standby = start_pair(booted, blank, folder, engine=chosen, timing=timing, ear=ear)
    return primary, booted, standby, blank


@pytest.mark.parametrize("engine", ["remus", "kemari"])
@pytest.mark.parametrize("victim", ["host", "qemu"])
def test_linux_goes_on_where_its_host_died(engine: str, victim: str, guests: Guests, tmp_path: Path) -> None:
    ear = LinuxEar()
    primary, booted, standby, blank = start(ear, guests, tmp_path, engine)
    with standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_count(guests.booted.counted + 3)
        ear.wait_records(2)

        if victim == "host":
            kill(primary)
        else:
            os.kill(booted.pid, signal.SIGKILL)
        before, written = ear.counts()[-1], len(ear.records())
        taken_over = standby.wait(PATIENCE_S)
        assert taken_over is not None
        ear.wait_count(before + 5)
        ear.wait_records(written + 2)

        if victim == "qemu":
            with pytest.raises(GuestError, match="QEMU was ended by SIGKILL"):
                primary.wait(PATIENCE_S)
            primary.close()
    counts = ear.counts()
    assert counts == list(range(guests.booted.counted + 1, counts[-1] + 1))
    assert "guest: boot" not in ear.text()
    assert set(re.findall(r"bad (\d+)", ear.text())) == {"0"}
    records = ear.records()
    assert records == list(range(records[0], records[-1] + 1))
    blank.close()
    image, (older, later) = image_of(blank), (label_of(booted), label_of(blank))
    assert b"record %d\n" % (records[-1] - 1) in image
    assert (older.runs, later.runs, later.is_clean) == (True, True, True)
    assert newer(older, later) == 1


def test_what_linux_said_it_had_on_disk_is_in_the_standbys_image_and_nothing_else_is(
    guests: Guests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = LinuxEar()
    primary, _, standby, blank = start(ear, guests, tmp_path, "remus")
    close, disks = blank.close, []
    monkeypatch.setattr(blank, "close", lambda: (disks.append(bytes(blank.memory[2].buffer)), close()))
    with primary, standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_records(3)
        records = ear.records()

    assert b"record %d\n" % records[-1] in disks[0]
    assert image_of(blank) == disks[0]


def label_of(guest: QemuGuest) -> Label:
    store = guest.memory[2].store
    assert isinstance(store, Disk)
    label = read_label(store.image.path)
    assert label is not None
    return label


def image_of(guest: QemuGuest) -> bytes:
    store = guest.memory[2].store
    assert isinstance(store, Disk)
    return store.image.path.read_bytes()


def test_a_standby_whose_image_cannot_be_written_says_so_and_leaves_the_guest_where_it_is(
    guests: Guests, tmp_path: Path
) -> None:
    ear = LinuxEar()
    primary, _, standby, blank = start(ear, guests, tmp_path, "remus")
    with primary, standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_count(guests.booted.counted + 1)
        next(iter(blank._disks)).image.sync()  # its first copy has taken its place
        with open("/dev/full", "r+b", buffering=0) as full:
            os.dup2(full.fileno(), next(iter(blank._disks)).image.descriptor)

        with pytest.raises(GuestError, match="cannot be written: No space left"):
            standby.wait(PATIENCE_S)
        standby.close()

        ear.wait_count(ear.counts()[-1] + 3)


def test_linux_goes_there_and_back(guests: Guests, tmp_path: Path) -> None:
    ear = LinuxEar()
    primary, _, standby, _ = start(ear, guests, tmp_path, "remus", PATIENT)
    with primary, standby:
        assert primary.wait_protected(PATIENCE_S)
        ear.wait_count(guests.booted.counted + 2)

        primary.switchover()
        there = standby.wait(PATIENCE_S)
        assert there is not None
        assert there.wait_protected(PATIENCE_S)
        ear.wait_count(ear.counts()[-1] + 3)
        there.switchover()
        assert primary.wait_active(PATIENCE_S)
        ear.wait_count(ear.counts()[-1] + 3)

    counts = ear.counts()
    assert counts == list(range(guests.booted.counted + 1, counts[-1] + 1))
    assert "guest: boot" not in ear.text()
    assert set(re.findall(r"bad (\d+)", ear.text())) == {"0"}


@pytest.mark.parametrize("engine", ["lockstep", "hybrid"])
def test_engines_that_replay_are_refused(engine: str, guests: Guests, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"engine {engine} needs a guest that supports: replay"):
        protect(
            guests.blank(boots=True),
            listen=f"ipc://{tmp_path}/a",
            arbiter=f"file://{tmp_path}",
            create=True,
            engine=engine_named(engine, 0.05),
        )


def test_a_difference_between_the_machines_is_refused_with_both(guests: Guests, tmp_path: Path) -> None:
    options = {"arbiter": f"file://{tmp_path}", "timing": TIMING}
    primary = protect(
        guests.loaded(),
        listen=f"ipc://{tmp_path}/a",
        create=True,
        **options,  # type: ignore[arg-type]
    )
    standby = Standby(
        guests.blank(arguments=("-device", "virtio-rng-pci")),
        listen=f"ipc://{tmp_path}/b",
        peers=[f"ipc://{tmp_path}/a"],
        **options,  # type: ignore[arg-type]
    )

    with primary, standby, pytest.raises(ConfigError, match="the guests differ") as refused:
        standby.wait(PATIENCE_S)

    assert str(refused.value).endswith(
        "the guests differ (active / joiner): machine (no more) / -device virtio-rng-pci"
    )
