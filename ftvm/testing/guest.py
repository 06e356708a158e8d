"""check_guest: does a guest keep the contract of interfaces.Guest, and of the capabilities that it claims?

Hypothesis draws plans: run, give inputs, capture, fail a capture, copy, replay, in any order. After each step the guest
must stand still, and what it reports must agree with what its memory shows. A plan that breaks a promise is shrunk to a
short one and told. The kit cannot know what the guest's program means: with `is_right` and `is_deterministic` it finds
more. The memory is copied and compared often: give it a small guest, a few MiB.
"""

import ctypes
import select
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Generic, TypeVar, cast

from hypothesis import strategies as st
from hypothesis.errors import Flaky

from ftvm.checkpoint import Bitmap, bitmap_bytes
from ftvm.errors import FtvmError, GuestError, LocalProtocolError
from ftvm.interfaces import Capability, ExactStopGuest, Guest, ReplayableGuest
from ftvm.runtime.follow import GroupReplayingGuest
from ftvm.testing.contract import ContractBroken, patience, require
from ftvm.testing.drawing import try_with
from ftvm.testing.transcript import Picture, Said, Transcript, changed_pages, load_picture, take_picture
from ftvm.units import PAGE_BYTES

__all__ = ["check_guest"]

G = TypeVar("G", bound=Guest)
Input = tuple[str, bytes]

_SHAPE: Final = "The memory is page-aligned, writable, and as the geometry says"
_STILL: Final = "A paused guest stands still"
_REPORTED: Final = "No write goes unreported"
_RESTORED: Final = "What a failed capture puts back is reported again"
_SAVED: Final = "Saving changes nothing"
_COPIED: Final = "A copy is bit-identical"
_REFUSED: Final = "Devices that do not load are refused with GuestError and leave the guest as before"
_DROPPED: Final = "An input that nobody wants, or of which there are too many, is dropped in silence"
_SAME_COURSE: Final = "A copy goes the same way"
_RIGHT: Final = "Outputs come in the order in which the program makes them, none left out"
_REPLAYED: Final = "A replay to a position is bit-identical"
_STOPS: Final = "With stop_at_output the guest pauses right behind each instruction that makes an output"
_ENDS: Final = "close gives everything back, and can be called again"
_ACTS: Final = "A guest under check does something"
_STAYS: Final = "The memory stays where it is"
_LIVES: Final = "A thread of the guest that dies is a failure of the guest"
_GOES_ON: Final = "A guest under check goes on for ever"

_FLOOD: Final = 2_000
_MOMENTS_MAX: Final = 200


class _Step(Enum):
    COLLECT = "collect"
    FAIL_A_CAPTURE = "fail a capture"
    SAVE = "save"
    COPY = "copy"
    REPLAY = "replay"
    LOAD_NONSENSE = "load nonsense"
    FLOOD = "flood"
    STOP_AT_OUTPUT = "stop at an output"


_LAST_STEPS: Final = ((), _Step.FAIL_A_CAPTURE, _Step.COLLECT, _Step.LOAD_NONSENSE, _Step.COPY, _Step.REPLAY)
"""What every plan ends with, so that what they find does not depend on what was drawn."""

Plan = list[_Step | tuple[Input, ...]]
"""What to do to a guest: a tuple of inputs is a run in which it gets them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _GuestBench(Generic[G]):
    """What all trials share; `acted` tells which of them saw the guest do anything, `compared` which comparisons of a
    guest with its copy had anything to go by."""

    make_guest: Callable[[], G]
    let_run: Callable[[G], None]
    is_right: Callable[[Sequence[Said]], bool] | None
    is_deterministic: bool
    moment_seconds: float
    acted: list[bool] = field(default_factory=list)
    compared: list[bool] = field(default_factory=list)

    def wait(self) -> None:
        """Let time pass for a guest that might run although it is paused."""
        select.select((), (), (), self.moment_seconds)


def check_guest(
    make_guest: Callable[[], G],
    *,
    inputs: st.SearchStrategy[Input] | None = None,
    let_run: Callable[[G], None] | None = None,
    is_right: Callable[[Sequence[Said]], bool] | None = None,
    is_deterministic: bool = False,
    examples: int = 30,
    steps: int = 10,
    moment_seconds: float = 0.003,
    patience_seconds: float = 60.0,
    seed_number: int = 0,
) -> None:
    """Check a guest against its contract; raises ContractBroken that names the promise and what was seen.

    make_guest        returns a new guest each time, booted into a program that goes on for ever; the kit closes it
    inputs            draws what to deliver, as (channel, payload); without it the guest gets none that it knows
    let_run           returns when the resumed guest has run for a moment; by default `moment_seconds` pass. For a
                      guest that has no thread
    is_right          tells whether these outputs, all since birth, are what the program makes, in this order
    is_deterministic  without inputs, what it says depends on its state alone, never on time: two copies say the same.
                      It is let run until it says something
    examples          how many plans of up to `steps` steps are tried; `seed_number` chooses them
    patience_seconds  what one plan may take at most: a guest that hangs is reported

    A guest with Capability.REPLAY must replay each run bit for bit; one with EXACT_OUTPUT_STOP must stop where it says.
    """
    bench = _GuestBench(
        make_guest=make_guest,
        let_run=let_run or (lambda _guest: select.select((), (), (), moment_seconds) and None),
        is_right=is_right,
        is_deterministic=is_deterministic,
        moment_seconds=moment_seconds,
    )
    found: list[ContractBroken] = []
    known = st.just(("no such channel", b"")) if inputs is None else inputs

    def check(plan: Plan) -> None:
        try:
            with patience("A guest answers", patience_seconds):
                _try(bench, plan)
        except ContractBroken as broken:
            found.append(broken)
            raise

    try:
        try_with(check, examples, seed_number, plan=_plans(known, steps))
    except Flaky:
        # A guest that runs in time breaks its promise in one run and not in the next: the first one counts.
        if not found:
            raise
        raise found[0] from None
    require(any(bench.acted), _ACTS, "no memory was written and nothing said: give it inputs, or let it run for longer")
    unsaid = f"without inputs it said nothing in {_MOMENTS_MAX} moments that could be compared: let it run for longer, "
    unsaid += f"with a let_run or a moment_seconds of more than {moment_seconds:g}, or leave is_deterministic out"
    require(not is_deterministic or (bool(bench.compared) and all(bench.compared)), _SAME_COURSE, unsaid)


def _plans(inputs: st.SearchStrategy[Input], steps: int) -> st.SearchStrategy[Plan]:
    runs = st.lists(inputs, max_size=3).map(tuple)
    step: st.SearchStrategy[_Step | tuple[Input, ...]] = st.one_of(runs, st.sampled_from(_Step))
    return st.lists(step, min_size=1, max_size=steps)


def _try(bench: _GuestBench[G], plan: Plan) -> None:
    """Carry out a plan on a new guest, and then what must always hold."""
    threads = _thread_count()
    with _deaths() as died, closing(bench.make_guest()) as guest:
        trial = _Trial(bench, guest, died)
        for step in [*plan, *_LAST_STEPS]:
            try:
                trial.perform(step)
                trial.stands_still(_name(step))
            except LocalProtocolError as error:  # the kit calls in order: it is the guest that is not where it says
                raise ContractBroken(_STILL, f"behind {_name(step)} it says: {error}") from error
            except FtvmError as error:
                detail = f"{type(error).__name__}: {error}"
                raise ContractBroken(f"A guest takes part: {_name(step)}", detail) from error
            finally:
                trial.lives(guest)  # a death explains more than what was seen of it
        bench.acted.append(trial.has_acted)
        guest.close()
    for _ in range(_MOMENTS_MAX):
        if _thread_count() <= threads:
            return
        bench.wait()
    require(False, _ENDS, f"{_thread_count() - threads} threads live on")


def _name(step: _Step | tuple[Input, ...]) -> str:
    return step.value if isinstance(step, _Step) else f"a run with {len(step)} inputs"


@contextmanager
def _deaths() -> Iterator[list[str]]:
    """Collect the threads that end by an error while the block runs, instead of printing them."""
    died: list[str] = []

    def note(end: threading.ExceptHookArgs) -> None:
        name = "unknown" if end.thread is None else end.thread.name
        died.append(f"its thread {name!r} ended by {end.exc_type.__name__}: {end.exc_value}")

    before, threading.excepthook = threading.excepthook, note
    try:
        yield died
    finally:
        threading.excepthook = before


def _places(guest: Guest) -> list[tuple[str, int]]:
    """Return where each region is, as an address."""
    return [(region.name, ctypes.addressof(ctypes.c_char.from_buffer(region.buffer))) for region in guest.memory]


def _thread_count() -> int:
    return len(sys._current_frames())  # noqa: SLF001 - documented; counts threads of C as well, once they ran Python


class _Trial(Generic[G]):
    """One guest, what it is known to be, and what it must report."""

    def __init__(self, bench: _GuestBench[G], guest: G, died: Sequence[str]) -> None:
        self._bench = bench
        self._guest = self._twin = guest
        self._died = died
        self._sink = Transcript()
        self._check_shape()
        self._places = _places(guest)
        guest.attach(self._sink)
        self.has_acted = False
        self._was_given_input = False
        self._captured: tuple[bytes | None, ...] = (None,) * len(guest.memory)
        self._owed = Bitmap.empty([region.page_count for region in guest.memory])
        self._born = take_picture(guest)
        self._logged = self._said = 0
        self.stands_still("birth")

    def perform(self, step: _Step | tuple[Input, ...]) -> None:
        """Do one step."""
        match step:
            case tuple():
                self._run(step)
            case _Step.COLLECT:
                self._captured, self._owed = self._collect()
            case _Step.FAIL_A_CAPTURE:
                self._fail_a_capture()
            case _Step.SAVE:
                self._save()
            case _Step.COPY:
                self._copy()
            case _Step.REPLAY if Capability.REPLAY in self._guest.can:
                self._replay(cast("ReplayableGuest", self._guest))
            case _Step.LOAD_NONSENSE:
                self._load_nonsense()
            case _Step.FLOOD:
                self._flood()
            case _Step.STOP_AT_OUTPUT if Capability.EXACT_OUTPUT_STOP in self._guest.can:
                self._stop_at_output(cast("ExactStopGuest", self._guest))
            case _:
                pass

    def stands_still(self, behind: str) -> None:
        """Check that nothing moves while it is paused."""
        require(_places(self._guest) == self._places, _STAYS, f"behind {behind} it is not where it was at birth")
        _stands_still(self._bench, self._guest, self._sink, behind)

    def lives(self, guest: G) -> None:
        """Check that the guest, or its copy, that ran last can go on, and that it says so if a thread of it died."""
        died = "; ".join(self._died)  # before what it says: a thread may die in between
        others = (self._guest, self._twin) if died else ()  # what died may have been let go on a moment ago
        said = next((said for each in (guest, *others) if (said := each.failure()) is not None), None)
        require(said is not None or not died, _LIVES, f"{died}; failure() says None")
        require(said is None, _GOES_ON, f"failure() says {said!r}")

    def _check_shape(self) -> None:
        guest, shapes = self._guest, self._guest.geometry.regions
        names = [(region.name, region.page_count) for region in guest.memory]
        expected = [(shape.name, shape.page_count) for shape in shapes]
        require(names == expected, _SHAPE, f"the geometry says {expected}, the memory is {names}")
        for region in guest.memory:
            seen = f"region {region.name} of {region.page_count} pages has {region.buffer.nbytes} bytes"
            require(region.buffer.nbytes == region.page_count * PAGE_BYTES, _SHAPE, seen)
            require(not region.buffer.readonly, _SHAPE, f"region {region.name} cannot be written")
        require(guest.failure() is None, "A new guest can run", f"it says {guest.failure()!r}")

    # --- running ---------------------------------------------------------------------------------------------------

    def _run(self, inputs: Sequence[Input]) -> None:
        guest, before = self._guest, take_picture(self._guest)
        self._was_given_input |= bool(inputs)
        _run(self._bench, guest, inputs)
        self.has_acted |= len(self._sink.said) > self._said or take_picture(guest) != before
        self._check_outputs()

    def _check_outputs(self) -> None:
        said, is_right = self._sink.said, self._bench.is_right
        require(is_right is None or is_right(said), _RIGHT, f"the latest are {said[-5:]}")
        places = [one.position for one in said if one.position is not None]
        require(places == sorted(places), _RIGHT, f"their positions go back: {places[-5:]}")

    def _flood(self) -> None:
        self._was_given_input = True
        for number in range(_FLOOD):
            try:
                self._guest.deliver("no such channel", b"x" * (number % 2_000))
            except Exception as wrong:
                raise ContractBroken(_DROPPED, f"input {number + 1} for no channel raised {wrong!r}") from wrong

    def _stop_at_output(self, guest: ExactStopGuest) -> None:
        before = len(self._sink.said)
        guest.stop_at_output(True)
        guest.resume()
        for _ in range(_MOMENTS_MAX):
            if len(self._sink.said) > before:
                break
            self._bench.let_run(self._guest)
        else:
            guest.pause()  # it emits nothing: no claim to check
        self._bench.let_run(self._guest)
        said, memory = self._sink.said[before:], [bytes(region.buffer) for region in guest.memory]
        self._bench.let_run(self._guest)
        later = [bytes(region.buffer) for region in guest.memory]
        require(self._sink.said[before:] == said and later == memory, _STOPS, f"it ran on after {said}")
        places = {one.position for one in said}
        require(len(places) <= 1, _STOPS, f"it made outputs at {places} in one go")
        guest.pause()
        if said and Capability.REPLAY in guest.can:
            here = cast("ReplayableGuest", guest).position
            require(here == said[-1].position, _STOPS, f"it stands at {here}, the output was made at {places}")
        guest.stop_at_output(False)

    # --- capture ---------------------------------------------------------------------------------------------------

    def _collect(self) -> tuple[tuple[bytes, ...], Bitmap]:
        """Collect, and check it; return the memory as it is now, and the pages reported."""
        guest = self._guest
        counts = tuple(region.page_count for region in guest.memory)
        bitmap = guest.collect_dirty()
        require(bitmap.page_counts == counts, _REPORTED, f"the set is of {bitmap.page_counts} pages, not {counts}")
        memory = tuple(bytes(region.buffer) for region in guest.memory)
        for index, region in enumerate(guest.memory):
            told = int.from_bytes(bitmap.words[index], "little")
            owed = int.from_bytes(self._owed.words[index], "little") & ~told
            missing = [page for page in changed_pages(self._captured[index], memory[index]) if not told >> page & 1]
            require(not missing, _REPORTED, f"pages {missing[:9]} of {region.name} changed and are not in the set")
            require(not owed, _RESTORED, f"page {owed.bit_length() - 1} of {region.name} is not in the next set")
            require(not told >> region.page_count, _REPORTED, f"a page behind the end of {region.name} is in the set")
        return memory, Bitmap(counts, tuple(bytearray(bitmap_bytes(count)) for count in counts))

    def _fail_a_capture(self) -> None:
        guest = self._guest
        bitmap = guest.collect_dirty()
        guest.restore_dirty(bitmap)
        self._owed = self._owed | bitmap

    def _save(self) -> None:
        before = take_picture(self._guest)
        _require_same(_SAVED, before, take_picture(self._guest), "a second save")

    # --- copies ----------------------------------------------------------------------------------------------------

    def _copy(self) -> None:
        picture = take_picture(self._guest)
        with closing(self._bench.make_guest()) as twin:
            self._twin, sink = twin, Transcript()
            twin.attach(sink)
            _run(self._bench, twin, ())  # what it did before must leave no trace
            self.lives(twin)
            said = len(sink.said)
            load_picture(twin, picture)
            _require_same(_COPIED, picture, take_picture(twin), "a copy")
            _stands_still(self._bench, twin, sink, "loading")
            if self._bench.is_deterministic and not self._was_given_input:  # some may wait in the one and not the other
                self._compare_courses(twin, sink, said)

    def _compare_courses(self, twin: G, sink: Transcript, said: int) -> None:
        ours, pairs = len(self._sink.said), list[tuple[Said, Said]]()
        for _ in range(_MOMENTS_MAX if all(self._bench.compared) else 1):  # a silent guest is waited for once
            for guest in (self._guest, twin):
                _run(self._bench, guest, ())
            if pairs := list(zip(self._sink.said[ours:], sink.said[said:], strict=False)):
                break
        self._bench.compared.append(bool(pairs))
        for number, (one, other) in enumerate(pairs):
            require(one == other, _SAME_COURSE, f"output {number} of the guest is {one}, of its copy {other}")

    def _replay(self, guest: ReplayableGuest) -> None:
        """Lead a copy of the guest as it was born through all that it took, to where it is."""
        with closing(self._bench.make_guest()) as other:
            twin, sink = cast("ReplayableGuest", other), Transcript()
            twin.attach(sink)
            load_picture(twin, self._born)
            records, taken = self._sink.log[self._logged :], 0
            try:
                if Capability.REPLAYS_GROUPS in twin.can:  # as many as it likes to, the others one by one
                    taken, _ = cast("GroupReplayingGuest", twin).lead_along(records, range(1, 1))
                for record in records[taken:]:
                    twin.run_until(record.position)
                    twin.inject(record)
                twin.run_until(guest.position)
            except GuestError as error:
                raise ContractBroken(_REPLAYED, str(error)) from error
            said = self._sink.said[self._said :]
            same = next((at for at, pair in enumerate(zip(said, sink.said, strict=False)) if pair[0] != pair[1]), None)
            seen = f"the guest made {len(said)} outputs, its replay {len(sink.said)}; the first that differs is {same}"
            require(said == sink.said, _REPLAYED, seen)
            _require_same(_REPLAYED, take_picture(guest), take_picture(twin), f"the replay to {guest.position}")

    def _load_nonsense(self) -> None:
        before = take_picture(self._guest)
        for nonsense in {b"", before.devices[: len(before.devices) // 2]} - {before.devices}:
            try:
                self._guest.load_devices(nonsense)
            except GuestError:
                _require_same(_REFUSED, before, take_picture(self._guest), "the guest after a refusal")
                continue
            except Exception as wrong:
                seen = f"{len(nonsense)} of {len(before.devices)} bytes raised {wrong!r}, which is no GuestError"
                raise ContractBroken(_REFUSED, seen) from wrong
            require(False, _REFUSED, f"{len(nonsense)} of {len(before.devices)} bytes were taken as devices")


def _run(bench: _GuestBench[G], guest: G, inputs: Sequence[Input]) -> None:
    for _ in range(2):
        guest.resume()
    for channel, payload in inputs:
        guest.deliver(channel, payload)
    bench.let_run(guest)
    for _ in range(2):
        guest.pause()


def _stands_still(bench: _GuestBench[G], guest: G, sink: Transcript, behind: str) -> None:
    before, said = take_picture(guest), len(sink.said)
    bench.wait()
    require(len(sink.said) == said, _STILL, f"behind {behind} it said {sink.said[said:][:3]}")
    _require_same(_STILL, before, take_picture(guest), f"behind {behind}, a moment later, the guest")


def _require_same(clause: str, one: Picture, other: Picture, what: str) -> None:
    """Require two pictures to be equal; say where they differ."""
    pages = [changed_pages(mine, theirs) for mine, theirs in zip(one.regions, other.regions, strict=True)]
    require(not any(pages), clause, f"{what} differs in pages {[found[:9] for found in pages]} of its regions")
    is_same = one.devices == other.devices
    require(is_same, clause, f"{what} has other devices: {one.devices[:64].hex()}, {other.devices[:64].hex()}")
