"""The machine as a guest: what `Guest` promises, with real programs and the real clock; nothing here measures time."""

import threading
import time
from pathlib import Path

import pytest

from ftvm.checkpoint import END_CHANNEL, GuestPosition, LogKind, LogRecord
from ftvm.errors import ClosedError, ConfigError, GuestError, ImageError, LocalProtocolError
from ftvm.guests.riscv import RiscvGuest
from ftvm.interfaces import Capability, Guest
from ftvm.runtime.sink import PackedTurn

from .assembly import RAM_BASE, UART, WFI, addi, changed_pages, elf, finish, jal, jalr, li, load, store, to_bytes
from .stable import (
    MEMORY,
    PATIENCE_S,
    STATION,
    WHO_HAS_KV,
    RealClock,
    Sink,
    Stable,
    chatter,
    takeover,
    wait_for_end,
    wait_for_failure,
)


def test_it_is_a_guest(stable: Stable) -> None:
    guest, _ = stable(chatter())

    as_guest: Guest = guest

    assert as_guest.can == frozenset(Capability) - {Capability.TELLS_SILENCE}  # no process is asked
    assert [region.name for region in as_guest.memory] == ["ram"]
    assert len(as_guest.memory[0].buffer) == MEMORY == as_guest.geometry.page_count * 4096


def test_two_guests_of_one_shape_have_equal_geometry_and_others_do_not(stable: Stable) -> None:
    active, standby = stable(chatter())[0], stable(None)[0]
    others = [stable(None, memory_bytes=2 * MEMORY), stable(None, mac=None), stable(None, disk=4096)]

    assert active.geometry == standby.geometry
    assert all(active.geometry != other.geometry for other, _ in others)


def test_it_is_born_paused_and_a_standby_is_born_blank(stable: Stable) -> None:
    active, sink = stable(chatter())
    standby, _ = stable(None)

    assert active.position.retired == 0
    assert sink.outputs == []
    assert not any(standby.memory[0].buffer)
    assert standby.collect_dirty().count() == 0
    assert active.collect_dirty().count() > 0


def test_it_tells_whether_it_has_written_also_while_it_runs(stable: Stable) -> None:
    guest, sink = stable.shipped("kv")
    told = [guest.has_written()]
    guest.collect_dirty()
    told.append(guest.has_written())

    guest.resume()
    sink.wait_for(1)
    told.append(guest.has_written())
    guest.pause()

    assert told == [True, False, True]
    assert guest.collect_dirty().count() > 0
    assert not guest.has_written()


def test_pause_returns_when_nothing_can_happen_any_more(stable: Stable) -> None:
    guest, sink = stable(chatter())

    for _ in range(20):
        guest.resume()
        sink.wait_for(len(sink.outputs) + 1)
        guest.pause()
        position, count, state = guest.position, len(sink.outputs), guest.save_devices()
        time.sleep(0.002)
        assert (guest.position, len(sink.outputs), guest.save_devices()) == (position, count, state)


def test_pause_and_resume_in_any_haste_never_hang(stable: Stable) -> None:
    """A seed found by hand: a pause that overtook the resume before it waited for a thread that never started."""
    guest, _ = stable.shipped("kv")

    for _ in range(2_000):
        guest.resume()
        guest.pause()
        guest.pause()

    guest.resume()
    guest.resume()
    assert guest.failure() is None


def test_an_input_is_taken_while_the_machine_waits(stable: Stable) -> None:
    guest, sink = stable.shipped("kv")
    guest.resume()
    sink.wait_for(2)  # its greeting, and its announcement

    guest.deliver("net0", WHO_HAS_KV)
    sink.wait_for(3)

    channel, answer = sink.outputs[2]
    assert channel == "net0"
    assert answer[:6] == STATION
    assert answer[12:22] == bytes.fromhex("0806 0001 0800 0604 0002")


def test_keys_reach_the_program(stable: Stable) -> None:
    guest, sink = stable.shipped("console", command_line="lines=1 listen=1")
    guest.resume()
    sink.wait_for_text(b"listening")

    guest.deliver("console", b"good morning, machine, how are you\n")
    sink.wait_for_text(b"good morning, machine, how are you")


def test_the_machine_goes_on_in_another_guest_where_it_was_paused(stable: Stable) -> None:
    first, first_sink = stable.shipped("ticks", command_line="beats=0 ms=1")
    second, second_sink = stable(None)
    first.resume()
    first_sink.wait_for_text(b"beat 20")
    first.pause()

    takeover(first, second)
    last = int(first_sink.console().split()[-1])
    second.resume()
    second_sink.wait_for_text(b"beat %d\n" % (last + 20))

    whole = (first_sink.console() + second_sink.console()).decode().splitlines()
    beats = [f"ticks: beat {number}" for number in range(10, last + 21, 10)]
    assert whole[: len(beats) + 1] == ["ticks: a beat every 1 ms", *beats]


def test_what_is_dirty_is_all_that_changed(stable: Stable) -> None:
    guest, sink = stable.shipped("dirty", command_line="pages=64 pattern=random rate=0")
    guest.resume()
    sink.wait_for(1)
    for _ in range(5):
        guest.pause()
        before = bytes(guest.memory[0].buffer)
        guest.collect_dirty()
        guest.resume()
        time.sleep(0.002)
        guest.pause()

        reported = guest.collect_dirty()
        after = bytes(guest.memory[0].buffer)
        bits = int.from_bytes(reported.words[0], "little")
        changed = changed_pages(before, after)
        assert changed <= {page for page in range(MEMORY // 4096) if bits >> page & 1}
        guest.restore_dirty(reported)
        again = guest.collect_dirty()
        assert again == reported
        guest.resume()


def test_a_restored_dirty_set_does_not_hide_later_changes_of_code(stable: Stable) -> None:
    """The flags of restored pages are plain, so the decoded code behind them must be gone."""
    patch_at = 4 * (11 + 1)
    words = [*li(5, RAM_BASE), addi(10, 10, 1), load(6, 5, patch_at, size=4), store(6, 5, 44, size=4), jal(0, -12)]
    guest, _ = stable(elf(to_bytes(words)))
    guest.resume()
    guest.pause()

    guest.restore_dirty(guest.collect_dirty())
    guest.resume()
    guest.pause()

    assert guest.failure() is None


def test_it_can_stop_by_itself_behind_each_output(stable: Stable) -> None:
    guest, sink = stable(chatter())
    guest.stop_at_output(True)
    positions = []

    for count in range(1, 6):
        guest.resume()
        sink.wait_for(count)
        guest.pause()
        positions.append(guest.position.retired)
        assert len(sink.outputs) == count

    assert positions == [13, 15, 17, 19, 21]


def test_a_program_that_ended_says_so_and_cannot_go_on(stable: Stable) -> None:
    guest, sink = stable(elf(to_bytes([*li(1, UART), store(0, 1, size=1), *finish(3)])))
    guest.resume()

    failure = wait_for_failure(guest, sink)
    guest.resume()
    guest.pause()

    assert failure == "the program ended with code 3"
    assert len(sink.outputs) == 1


def test_random_bytes_are_drawn_from_where_they_are_said_to_come_from(stable: Stable) -> None:
    drawn = []

    def entropy(count: int) -> bytes:
        drawn.append(count)
        return bytes((len(drawn) * 151 + 7 * n) & 255 for n in range(count))

    guest, sink = stable.shipped("entropy", entropy=entropy)
    guest.resume()

    wait_for_failure(guest, sink)
    guest.pause()

    assert drawn
    assert b"entropy: " in sink.console()


@pytest.mark.parametrize("name", ["collect_dirty", "save_devices"])
def test_what_needs_a_paused_guest_says_so(stable: Stable, name: str) -> None:
    guest, _ = stable(elf(to_bytes([WFI, jal(0, -4)])))
    guest.resume()

    with pytest.raises(LocalProtocolError, match=f"{name} needs the guest paused"):
        getattr(guest, name)()


def test_a_guest_without_a_sink_does_not_run() -> None:
    guest = RiscvGuest(chatter(), clock=RealClock(), memory_bytes=MEMORY)

    with pytest.raises(LocalProtocolError, match="attach a sink"):
        guest.resume()

    guest.close()


def test_a_state_that_does_not_load_leaves_the_guest_as_it_was(stable: Stable) -> None:
    guest, _ = stable(chatter())
    before = guest.save_devices()

    with pytest.raises(GuestError, match="does not load"):
        guest.load_devices(b"nonsense")

    assert guest.save_devices() == before


def test_a_closed_guest_is_closed(stable: Stable) -> None:
    guest, _ = stable(chatter())
    guest.resume()

    guest.close()
    guest.close()

    with pytest.raises(ClosedError):
        guest.resume()


def test_inputs_that_nobody_takes_are_bounded(stable: Stable) -> None:
    guest, _ = stable(elf(to_bytes([WFI, jal(0, -4)])))

    for _ in range(5_000):
        guest.deliver("net0", bytes(60))
        guest.deliver("console", bytes(60))
        guest.deliver("no such channel", b"")

    guest.resume()
    guest.pause()
    assert guest.failure() is None


def test_a_program_that_cannot_run_is_refused(stable: Stable, tmp_path: Path) -> None:
    text = tmp_path / "program.elf"
    text.write_text("int main(void) { return 0; }")

    with pytest.raises(ImageError, match="not an ELF file"):
        stable(text)
    with pytest.raises(ConfigError, match=r"missing\.elf cannot be read: No such file"):
        stable(tmp_path / "missing.elf")
    with pytest.raises(ConfigError, match="multiple of 4096"):
        stable(None, memory_bytes=1000)


def test_a_replay_of_the_log_leads_another_machine_to_the_same_state(stable: Stable) -> None:
    """Bressoud & Schneider, 1996, section 2: the same inputs at the same instructions give the same machine."""
    command_line = "lines=1 listen=1"
    first, sink = stable.shipped("console", command_line=command_line)
    first.resume()
    sink.wait_for_text(b"listening")
    for said in (b"once", b"and", b"again"):
        first.deliver("console", said + b"\n")
        sink.wait_for_text(said)
    first.pause()

    second, again = stable.shipped("console", command_line=command_line)
    for record in sink.log:
        second.run_until(record.position)
        second.inject(record)
    second.run_until(first.position)

    assert again.outputs == sink.outputs
    assert second.save_devices() == first.save_devices()
    assert bytes(second.memory[0].buffer) == bytes(first.memory[0].buffer)


def test_a_replay_that_cannot_come_to_its_position_is_refused(stable: Stable) -> None:
    guest, _ = stable.shipped("hello")

    with pytest.raises(GuestError, match="cannot come to"):
        guest.run_until(GuestPosition(1 << 50, 0))
    with pytest.raises(GuestError, match="not at GuestPosition"):
        guest.inject(LogRecord(index=1, kind=LogKind.INPUT, position=GuestPosition(1, 0), channel="net0"))


@pytest.mark.parametrize("channel", ["console", "entropy", "tape"])
def test_an_input_that_a_machine_takes_in_part_or_not_at_all_ends_its_replay(stable: Stable, channel: str) -> None:
    """Mutant: what is left out is lost without a word, and the guest goes on as another one."""
    guest, _ = stable.shipped("hello")
    too_much = LogRecord(index=1, kind=LogKind.INPUT, position=guest.position, channel=channel, payload=bytes(1 << 16))

    with pytest.raises(GuestError, match=f"does not take its {channel} input at .* again"):
        guest.inject(too_much)


def test_a_machine_that_had_told_its_end_does_not_tell_it_again_where_it_is_loaded(stable: Stable) -> None:
    """Mutant: who takes over numbers one more end behind the one that the guest has told."""
    first, told = stable.shipped("hello")
    first.resume()
    wait_for_failure(first, told)
    first.pause()
    second, again = stable.shipped("hello")

    second.memory[0].buffer[:] = first.memory[0].buffer
    second.load_devices(first.save_devices())
    second.resume()
    wait_for_end(second)

    assert told.outputs[-1][0] == END_CHANNEL
    assert again.outputs == []


def test_a_replay_that_gets_stuck_ends_with_an_error(stable: Stable) -> None:
    guest, _ = stable(elf(to_bytes([jalr(0, 0)])))

    with pytest.raises(GuestError, match="cannot come to"):
        guest.run_until(GuestPosition(1000, 0))


def test_what_is_saved_does_not_depend_on_a_run_after_the_last_input(stable: Stable) -> None:
    """Interrupt lines once followed their devices only when a run began: backups in lockstep saw other devices."""
    first, sink = stable.shipped("kv")
    first.resume()
    sink.wait_for_text(b"serving")
    first.deliver("net0", WHO_HAS_KV)
    sink.wait_for(2)
    first.pause()

    second, _ = stable.shipped("kv")
    for record in sink.log:
        second.run_until(record.position)
        second.inject(record)
        before = second.save_devices()
        second._machine.run(0)
        assert second.save_devices() == before
    second.run_until(first.position)

    assert second.save_devices() == first.save_devices()


class HandedOn(Sink):
    """Notes which threads handed turns on, and can be out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[threading.Thread] = []
        self.is_broken = False

    def hand_on(self, turn: PackedTurn) -> None:
        self.threads.append(threading.current_thread())
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("out of order")
        for output in turn.packed(1, 1)[1]:
            self.emit(output.channel, output.payload, GuestPosition(0, 0))


def answered(guest: RiscvGuest, sink: HandedOn) -> None:
    """Ask until this thread has handed an answer on: the guest's own may not rest yet."""
    for _ in range(PATIENCE_S * 100):
        count = len(sink.outputs)
        guest.deliver_all([("net0", WHO_HAS_KV)])
        if threading.current_thread() in sink.threads:
            return
        sink.wait_for(count + 1)
    raise AssertionError("no turn was done here")


def test_who_gives_inputs_together_has_the_answer_before_that_returns(stable: Stable) -> None:
    guest, _ = stable.shipped("kv")
    sink = HandedOn()
    guest.attach(sink)
    guest.resume()
    sink.wait_for(2)

    answered(guest, sink)

    assert sink.outputs[-1][0] == "net0"
    guest.pause()


def test_who_gives_inputs_to_a_guest_whose_disk_has_an_image_does_not_wait_for_it(
    stable: Stable, tmp_path: Path
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    guest, _ = stable.shipped("kv", disk=image)
    sink = HandedOn()
    guest.attach(sink)
    guest.resume()
    sink.wait_for(2)

    for count in range(3, 30):
        guest.deliver_all([("net0", WHO_HAS_KV)])
        sink.wait_for(count)

    assert threading.current_thread() not in sink.threads


def test_a_machine_whose_answer_cannot_be_handed_on_is_given_back(stable: Stable) -> None:
    guest, _ = stable.shipped("kv")
    sink = HandedOn()
    guest.attach(sink)
    guest.resume()
    sink.wait_for(2)
    answered(guest, sink)  # so the guest's thread rests
    sink.is_broken = True

    with pytest.raises(RuntimeError, match="out of order"):
        guest.deliver_all([("net0", WHO_HAS_KV)])

    guest.pause()  # else it would wait for ever
