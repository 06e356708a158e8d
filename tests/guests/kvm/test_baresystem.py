"""A system under our monitor: its timers, interrupts and clocks, on one processor and on several, go on in a new
machine as if nothing had been; with a system that checks itself (bare/)."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ftvm.checkpoint import END_CHANNEL
from ftvm.config import Timing
from ftvm.engines.names import engine_named
from ftvm.errors import GuestError
from ftvm.guests.kvm import KvmGuest, KvmSystem
from ftvm.testing.guest import check_guest
from ftvm.testing.transcript import load_picture, take_picture
from ftvm.units import Nanos

from ...runtime.live import PATIENCE_S, Ear, kill, start_pair
from .baresystem import MEMORY_BYTES, Beat, bare_kernel, beats_in
from .code import DEADLINE_REGISTER, State
from .test_guest import Sink

MS = 1_000_000
TIMING = Timing(heartbeat_ns=Nanos(50 * MS), backup_limit_ns=Nanos(1_000 * MS), primary_limit_ns=Nanos(3_000 * MS))

DISK_BYTES = 64 * 512
FRAME = bytes(range(6)) + bytes(range(10, 16)) + b"a question of the world's" * 3
"""To the first six bytes from the next six."""

MakeSystem = Callable[..., KvmGuest]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> KvmSystem:
    return KvmSystem(kernel=bare_kernel(tmp_path_factory.mktemp("bare")))


@pytest.fixture
def make_system(system: KvmSystem) -> Iterator[MakeSystem]:
    """Guests that run the system; closed at the end."""
    with ExitStack() as stack:

        def make(processors: int = 1, *, is_blank: bool = False) -> KvmGuest:
            booted = None if is_blank else system
            guest = KvmGuest(booted, processors=processors, memory_bytes=MEMORY_BYTES, disk=DISK_BYTES)
            stack.callback(guest.close)
            return guest

        yield make


def console(sink: Sink) -> bytes:
    return b"".join(one.payload for one in sink.said if one.channel == "console")


def wait_beats(sink: Sink, number: int) -> None:
    sink.wait(lambda _: len(beats_in(console(sink))) >= number)


def require_sound(beats: list[Beat], processors: int) -> None:
    """Assert that no beat is lost or twice, no word of memory wrong, no clock went back, and all that ticks goes on."""
    assert [beat.number for beat in beats] == list(range(1, len(beats) + 1))
    assert {(beat.bad, beat.back) for beat in beats} == {(0, 0)}
    for before, after in pairwise(beats):
        assert before.clock_ns < after.clock_ns
        assert before.timer < after.timer
    assert beats[-1].workers == processors - 1
    assert beats[-1].random >= len(beats) // 2
    assert beats[-1].disk > beats[len(beats) // 2].disk
    assert processors == 1 or beats[-1].ticks > beats[len(beats) // 2].ticks


@pytest.mark.parametrize("processors", [1, 2, 3, 4])
def test_a_system_goes_on_in_a_new_machine_from_wherever_it_was_paused(
    make_system: MakeSystem, processors: int
) -> None:
    guest, said = make_system(processors), b""
    for life in range(6):
        sink = Sink()
        guest.attach(sink)
        guest.resume()
        guest.deliver("console", b"key")
        guest.deliver("net0", FRAME)
        wait_beats(sink, 3)
        assert [one.payload for one in sink.said if one.channel == "net0"] == [FRAME[6:12] + FRAME[:6] + FRAME[12:]]
        guest.pause()
        said += console(sink)

        other = make_system(processors, is_blank=True)
        load_picture(other, take_picture(guest))
        assert other.save_devices() == guest.save_devices(), f"life {life}"
        guest.close()
        guest = other

    beats = beats_in(said)
    require_sound(beats, processors)
    assert said.startswith(b"tables\n")
    assert beats[-1].typed == 3 * 6
    assert beats[-1].frames == 6


@pytest.mark.parametrize("processors", [1, 2])
def test_a_deadline_is_saved_as_it_was_loaded_whatever_kvm_tells_of_it(
    make_system: MakeSystem, processors: int
) -> None:
    """Seen: of a deadline to come KVM told one some microseconds earlier. Of one whose timer has no deadlines it tells
    none, on every host."""
    blank = make_system(processors, is_blank=True)
    picture = take_picture(blank)
    given = State.parse(picture.devices).with_register(DEADLINE_REGISTER, 1 << 40).build()

    load_picture(blank, replace(picture, devices=given))

    assert blank.save_devices() == given


@pytest.mark.parametrize("processors", [1, 2, 4])
def test_a_system_keeps_the_contract(make_system: MakeSystem, processors: int) -> None:
    def is_right(said: list[object]) -> bool:
        beats = beats_in(b"".join(one.payload for one in said))  # type: ignore[attr-defined]
        return [beat.number for beat in beats] == list(range(1, len(beats) + 1)) and not any(
            beat.bad or beat.back for beat in beats
        )

    check_guest(
        lambda: make_system(processors),
        is_right=is_right,  # type: ignore[arg-type]
        examples=6,
        steps=6,
        moment_seconds=0.05,
    )


@pytest.mark.parametrize(
    ("engine", "processors"), [("remus", 1), ("kemari", 1), ("kemari", 2), ("kemari", 3), ("remus", 4), ("kemari", 4)]
)
def test_a_system_goes_on_where_its_host_died(
    engine: str, processors: int, make_system: MakeSystem, tmp_path: Path
) -> None:
    ear = Ear()
    primary, standby = start_pair(
        make_system(processors),
        make_system(processors, is_blank=True),
        tmp_path,
        engine=engine_named(engine, 0.05),
        timing=TIMING,
        ear=ear,
    )

    def beats() -> list[Beat]:
        return beats_in(ear.text().encode())

    with standby:
        assert primary.wait_protected(PATIENCE_S)
        protected = len(beats())
        ear.wait_until(lambda _: len(beats()) >= protected + 5)

        kill(primary)
        before = len(beats())
        assert standby.status().digests_compared > 0  # of all its memory, in each epoch
        assert standby.wait(PATIENCE_S) is not None
        ear.wait_until(lambda _: len(beats()) >= before + 10)

    require_sound(beats(), processors)


def test_it_stops_behind_each_line_and_goes_on_with_the_next(make_system: MakeSystem) -> None:
    guest, sink = make_system(2), Sink()
    guest.attach(sink)
    guest.stop_at_output(True)

    for number in range(1, 10):
        guest.resume()
        sink.wait(lambda said, number=number: len(said) >= number)  # type: ignore[misc]
        guest.pause()
        assert len(sink.said) == number

    assert [beat.number for beat in beats_in(console(sink))] == list(range(1, 9))


def test_a_system_that_is_switched_off_has_ended_well_and_one_that_asks_for_a_reset_has_failed(
    make_system: MakeSystem,
) -> None:
    off, reset = make_system(), make_system()
    for guest, key in ((off, b"q"), (reset, b"r")):
        sink = Sink()
        guest.attach(sink)
        guest.resume()
        wait_beats(sink, 1)
        guest.deliver("console", key)
        if guest is off:
            sink.wait(lambda said: said[-1].channel == END_CHANNEL)
        while guest.failure() is None:
            pass
        guest.pause()

    assert off.failure() == "the system switched itself off"
    assert re.match("the guest asked for a reset at 0x1", reset.failure() or "")


def test_the_state_of_a_machine_with_another_number_of_processors_is_refused(make_system: MakeSystem) -> None:
    state = make_system(2).save_devices()

    for processors in (1, 4):
        with pytest.raises(GuestError, match="another number of processors"):
            make_system(processors).load_devices(state)


def test_the_bytes_of_a_system_are_refused_whole_where_kvm_does_not_take_them(make_system: MakeSystem) -> None:
    guest, sink = make_system(), Sink()
    guest.attach(sink)
    guest.resume()
    wait_beats(sink, 2)
    guest.pause()
    good = guest.save_devices()

    for at in range(200, len(good), 97):
        bad = bytearray(good)
        bad[at] ^= 0xFF
        try:
            guest.load_devices(bytes(bad))
        except GuestError:
            assert guest.save_devices() == good
        guest.load_devices(good)

    guest.resume()
    wait_beats(sink, 4)
    guest.pause()
    assert not any(beat.bad for beat in beats_in(console(sink)))


def test_the_pages_where_kvm_tells_each_processor_the_time_are_in_every_set(make_system: MakeSystem) -> None:
    guest, sink = make_system(2), Sink()
    guest.attach(sink)
    guest.resume()
    wait_beats(sink, 2)
    guest.pause()
    guest.collect_dirty()

    told = int.from_bytes(guest.collect_dirty().words[0], "little")

    pages = guest._machine.clock_pages
    assert len(set(pages)) == 2
    assert told == sum(1 << page for page in pages)


def test_what_says_which_memory_may_be_cached_is_a_part_of_a_systems_state(make_system: MakeSystem) -> None:
    registers = State.parse(make_system().save_devices()).registers

    assert 0x2FF in registers
    assert {0x200, 0x20F, 0x250, 0x26F} <= set(registers)
