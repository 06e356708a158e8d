"""A KVM machine as a guest: what `Guest` promises, with compiled programs; nothing here measures time."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Final

import pytest
from hypothesis import strategies as st

from ftvm.checkpoint import END_CHANNEL, Bitmap, GuestPosition
from ftvm.errors import ClosedError, ConfigError, GuestError, LocalProtocolError, TrackingLost
from ftvm.guests.kvm import KvmGuest
from ftvm.guests.kvm.machine import KvmMachine
from ftvm.guests.kvm.programs import read_program
from ftvm.lab.kv import KV_PORT, Operation, Reply, ReplyStatus, Request
from ftvm.lab.station import Station, UdpAddress
from ftvm.testing.guest import check_guest
from ftvm.testing.transcript import Said, Transcript, load_picture, take_picture
from ftvm.units import Nanos

from ...leftovers import nothing_left_behind
from .code import CLOCK_REGISTER, State
from .conftest import MakeWork, processors

PATIENCE_S: Final = 60
WORK_BYTES: Final = 4 << 20
LINE: Final = re.compile(rb"work: (?:(\d+) sum 0x[0-9a-f]+|typed .*)\n")


class Sink(Transcript):
    """Keeps outputs, and lets a test wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
        with self._changed:
            super().emit(channel, payload, position)
            self._changed.notify_all()

    def wait(self, is_there: Callable[[Sequence[Said]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: is_there(self.said), PATIENCE_S), self.said[-5:]

    def wait_for(self, payload: bytes) -> None:
        self.wait(lambda said: any(payload in one.payload for one in said))


def counts_on(said: Sequence[Said]) -> bool:
    """Tell whether the lines are numbered without a gap."""
    numbers = [int(found[1]) for one in said if (found := LINE.fullmatch(one.payload)) and found[1]]
    return all(LINE.fullmatch(one.payload) for one in said) and numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("tracker", ["log", "userfault", "compare"])
def test_a_program_on_the_processor_keeps_the_contract(tracker: str) -> None:
    def make() -> KvmGuest:
        return KvmGuest(read_program("work"), memory_bytes=WORK_BYTES, mac=None, tracker=tracker)

    typed = st.sampled_from([b"hello\n", b"half of ", b"a line\n", b"x" * 200 + b"\n"])
    check_guest(
        make,
        inputs=st.tuples(st.just("console"), typed),
        is_right=counts_on,
        is_deterministic=True,
        examples=12,
        moment_seconds=0.01,
    )


def test_it_stops_behind_each_output_and_goes_on_with_the_next(make_work: MakeWork) -> None:
    guest, sink = make_work(), Sink()
    guest.attach(sink)
    guest.stop_at_output(True)

    for number in range(1, 20):
        guest.resume()
        sink.wait(lambda said, number=number: len(said) >= number)  # type: ignore[misc]
        guest.pause()
        assert len(sink.said) == number

    assert counts_on(sink.said)


def test_a_pause_returns_when_all_outputs_are_emitted_however_long_that_takes(make_work: MakeWork) -> None:
    class Slow(Sink):
        def emit(self, channel: str, payload: bytes, position: GuestPosition | None = None) -> None:
            begun.set()
            assert gate.wait(PATIENCE_S)
            super().emit(channel, payload, position)

    begun, gate = threading.Event(), threading.Event()
    guest, sink = make_work(), Slow()
    guest.attach(sink)
    guest.resume()
    assert begun.wait(PATIENCE_S)

    pausing = threading.Thread(target=guest.pause)
    pausing.start()
    pausing.join(0.2)
    was_early = not pausing.is_alive()
    gate.set()
    pausing.join(PATIENCE_S)
    said = len(sink.said)
    threading.Event().wait(0.05)

    assert not was_early
    assert len(sink.said) == said > 0


def test_what_is_typed_is_answered_and_an_end_is_an_output(make_work: MakeWork) -> None:
    guest, sink = make_work(), Sink()
    guest.attach(sink)
    guest.resume()

    guest.deliver("console", b"good morning\nquit\n")
    sink.wait(lambda said: said[-1:] == [Said(END_CHANNEL, b"the program ended with code 0", None)])
    guest.pause()

    assert any(one.payload == b"work: typed good morning\n" for one in sink.said)
    assert guest.failure() == "the program ended with code 0"


@pytest.mark.parametrize(
    ("typed", "failure"),
    [(b"fail\n", "the program ended with code 3"), (b"crash\n", "shut down by a triple fault at 0x1")],
)
def test_a_guest_that_fails_says_why_and_lives_on_where_an_older_state_is_loaded(
    make_work: MakeWork, typed: bytes, failure: str
) -> None:
    guest, other, sink = make_work(), make_work(), Sink()
    guest.attach(sink)
    other.attach(Sink())
    before = take_picture(guest)
    guest.resume()

    guest.deliver("console", typed)
    sink.wait_for(b"typed")
    for _ in range(PATIENCE_S * 100):
        if guest.failure() is not None:
            break
        threading.Event().wait(0.01)
    guest.pause()

    assert failure in str(guest.failure())
    assert all(one.channel != END_CHANNEL for one in sink.said)
    load_picture(other, before)
    other.resume()
    other.pause()
    assert other.failure() is None


def test_its_clocks_run_on_through_pauses_and_never_go_back_at_a_takeover(make_work: MakeWork) -> None:
    guest, standby = make_work(), make_work()
    for each in (guest, standby):
        each.attach(Sink())
    guest.resume()
    guest.pause()
    read = [guest.clocks()]
    read.append(guest.clocks())

    load_picture(standby, take_picture(guest))
    guest.close()
    read.append(standby.clocks())
    standby.resume()
    read.append(standby.clocks())
    standby.pause()
    read.append(standby.clocks())

    assert read == sorted(read)
    assert all(earlier[0] < later[0] and earlier[1] < later[1] for earlier, later in pairwise(read))


@pytest.mark.parametrize("ahead_s", [-3600, 86_400])
def test_a_wall_clock_that_is_wrong_neither_turns_the_guests_time_back_nor_throws_it_far_ahead(
    make_work: MakeWork, ahead_s: int
) -> None:
    guest = make_work()
    guest.attach(Sink())
    state = State.parse(guest.save_devices())
    clock_ns, ticks, wall_ns = state.times
    wrong = replace(state, times=(clock_ns, ticks, wall_ns - ahead_s * 1_000_000_000))

    guest.load_devices(wrong.build())
    guest.resume()
    guest.pause()
    now_ns, _ = guest.clocks()

    assert clock_ns <= now_ns < clock_ns + (PATIENCE_S + 3600) * 1_000_000_000


class Blind:
    """A tracker that sees nothing."""

    def collect(self) -> Bitmap:
        return Bitmap.empty([WORK_BYTES // 4096])

    def close(self) -> None:
        pass


def test_a_page_that_kvm_writes_past_all_page_tables_is_reported_though_no_tracker_sees_it(make_work: MakeWork) -> None:
    guest, page = make_work(), 512  # behind all that the program uses
    guest.attach(Sink())
    state = State.parse(guest.save_devices()).with_register(CLOCK_REGISTER, page * 4096 | 1)
    guest.load_devices(state.build())
    before = bytes(guest.memory[0].buffer)

    for _ in range(PATIENCE_S * 50):
        guest.resume()
        threading.Event().wait(0.02)
        guest.pause()
        if has_changed := bytes(guest.memory[0].buffer)[page * 4096 :][:4096] != before[page * 4096 :][:4096]:
            break
    guest._tracker = Blind()  # type: ignore[assignment]
    words = guest.collect_dirty().words[0]

    assert has_changed, "KVM wrote no clock"
    assert int.from_bytes(words, "little") == 1 << page


def answer_from(guest: KvmGuest, sink: Sink, station: Station, request: Request) -> Reply:
    """Ask the key-value server until it answers."""
    taken = 0
    for moment in range(PATIENCE_S * 50):
        for frame in station.send(request.encode(), Nanos(moment * 20_000_000)):
            guest.deliver("net0", frame)
        threading.Event().wait(0.02)
        for said in sink.said[taken:]:
            taken += 1
            for payload in station.hear(said.payload).payloads if said.channel == "net0" else ():
                reply = Reply.decode(payload)
                if reply.number == request.number:
                    return reply
    raise AssertionError(f"no answer to {request}")


def test_the_key_value_server_answers_and_its_state_goes_over_to_another_machine() -> None:
    with (
        closing(KvmGuest(read_program("kv"), memory_bytes=16 << 20)) as guest,
        closing(KvmGuest(None, memory_bytes=16 << 20)) as other,
    ):
        here = UdpAddress(ip=IPv4Address("10.77.0.9"), port=40_000)
        station = Station(mac=b"\2\0\0\0\0\1", here=here, peer=UdpAddress(ip=IPv4Address("10.77.0.2"), port=KV_PORT))
        sinks = Sink(), Sink()
        guest.attach(sinks[0])
        other.attach(sinks[1])
        guest.resume()

        put = Request(operation=Operation.PUT, client=1, number=1, key=b"k", value=b"v")
        first = answer_from(guest, sinks[0], station, put)
        guest.pause()
        load_picture(other, take_picture(guest))
        other.resume()
        get = Request(operation=Operation.GET, client=1, number=2, key=b"k")
        second = answer_from(other, sinks[1], station, get)
        other.pause()

        assert first.status is ReplyStatus.OK
        assert (second.status, second.value) == (ReplyStatus.OK, b"v")
        assert first.boot == second.boot
        assert first.uptime <= second.uptime


def test_dirty_pages_are_never_told_where_kvm_does_not_say_which_page_is_its_own(make_work: MakeWork) -> None:
    others = processors()
    guest = make_work()
    (processor,) = processors() - others
    with open("/dev/null", "r+b", buffering=0) as no_processor:
        os.dup2(no_processor.fileno(), processor, inheritable=False)

    with pytest.raises(TrackingLost, match="KVM does not tell which page"):
        guest.collect_dirty()


def test_geometry_names_all_that_both_hosts_must_have(make_work: MakeWork) -> None:
    geometry = make_work().geometry

    assert re.fullmatch(
        r"kvm/1 ram=4096KiB net=none disk=0KiB entropy=yes cpu=\w+-\d+-\d+-\d+/[0-9a-f]{16}", geometry.machine
    )
    assert [(region.name, region.page_count) for region in geometry.regions] == [("ram", 1024)]


def test_a_disk_is_a_region_and_its_content_is_there_from_the_start() -> None:
    content = b"first".ljust(4096, b"\0") + bytes(4096)
    with closing(KvmGuest(read_program("work"), memory_bytes=WORK_BYTES, disk=content)) as guest:
        region = guest.memory[1]

        assert (region.name, bytes(region.buffer)) == ("disk", content)
        assert guest.collect_dirty().words[1][0] & 1


def test_what_needs_a_paused_or_an_attached_guest_says_so(make_work: MakeWork) -> None:
    guest = make_work()

    with pytest.raises(LocalProtocolError, match="attach a sink"):
        guest.resume()
    guest.attach(Sink())
    guest.resume()
    for refused in (guest.save_devices, guest.collect_dirty, lambda: guest.load_devices(b"")):
        with pytest.raises(LocalProtocolError, match="needs the guest paused"):
            refused()
    guest.close()
    with pytest.raises(ClosedError):
        guest.resume()


def test_a_program_for_another_processor_is_refused_before_anything_is_open() -> None:
    elf = bytearray(read_program("work"))
    elf[18:20] = (243).to_bytes(2, "little")

    with pytest.raises(GuestError, match="for ELF machine 243, not for x86-64"):
        KvmGuest(bytes(elf))


def test_an_unknown_program_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match=r"'vk'; there are: kv, pages, work"):
        read_program("vk")


def test_without_log_and_write_faults_every_page_is_compared_and_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(memory: object) -> None:
        assert memory is not None
        raise ConfigError("userfaultfd has no asynchronous write protection: it came with Linux 6.7")

    class Warned(Sink):
        def warn(self, reason: str) -> None:
            warnings.append(reason)

    warnings: list[str] = []
    monkeypatch.setattr("ftvm.capture.trackers.choose.UserfaultTracker", lacks)
    monkeypatch.setattr(KvmMachine, "has_log", False)
    with closing(KvmGuest(read_program("work"), memory_bytes=32 << 20, mac=None)) as guest:
        guest.attach(Warned())

        assert guest.tracker == "compare"
    assert warnings == [
        "each checkpoint compares every page: userfaultfd has no asynchronous write protection: it came with Linux 6.7"
    ]


def test_a_guest_that_is_closed_leaves_no_descriptor_and_no_thread() -> None:
    with nothing_left_behind():
        for is_run in (False, True):
            made = KvmGuest(read_program("work"), memory_bytes=WORK_BYTES, mac=None, tracker="userfault")
            with closing(made) as guest:
                guest.attach(Sink())
                if is_run:
                    guest.resume()
        with pytest.raises(ConfigError):
            KvmGuest(read_program("work"), memory_bytes=WORK_BYTES, tracker="no such tracker")
        with pytest.raises(ConfigError):
            KvmGuest(read_program("work"), memory_bytes=WORK_BYTES, device="/dev/null")


def test_a_user_without_the_right_to_kvm_is_told_what_to_do() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody without rights")
    program = (
        "import os\nfrom ftvm.errors import ConfigError\nfrom ftvm.guests.kvm.machine import check_device\n"
        "os.setgroups([])\nos.setresgid(65534, 65534, 65534)\nos.setresuid(65534, 65534, 65534)\n"
        "try:\n    print(check_device())\nexcept ConfigError as wrong:\n    print(wrong)\n"
    )

    told = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True)

    if os.stat("/dev/kvm").st_mode & 0o006 == 0:
        assert (
            "no right to use /dev/kvm (Permission denied): add this user to its group, most often `kvm`" in told.stdout
        )
