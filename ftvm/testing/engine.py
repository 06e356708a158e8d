"""check_engine: is an engine a pure policy that the protocol can trust, whatever it is asked?

Hypothesis draws views as the protocol makes them, and others: an engine must not depend on where the clock starts, or
on anything but its arguments, and must name for each output a mark whose safety makes a takeover reproduce it.
"""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, Final

from hypothesis import strategies as st

from ftvm.checkpoint import Watermarks
from ftvm.interfaces import Capability, Engine, EngineView
from ftvm.testing.contract import require
from ftvm.testing.drawing import try_with
from ftvm.units import Nanos, seconds_to_nanos

__all__ = ["check_engine"]

_VALUE: Final = "An engine is a frozen value with a name"
_NEEDS: Final = "An engine that logs asks for a guest that can be replayed"
_PURE: Final = "The same view gives the same answer"
_NO_ORIGIN: Final = "No policy depends on where the clock starts"
_BOUNDED: Final = "Every guest is cut again within a bounded time"
_FORWARD: Final = "No cut is due before the last one"
_OWN: Final = "An output needs its own epoch, or its own log record"
_LATER: Final = "A later output never needs less"

_MARK_MAX: Final = 1 << 40
_marks = st.integers(1, _MARK_MAX)
_more = st.integers(0, 9)
_times = st.integers(0, 10**12).map(Nanos)
_spans = st.integers(0, 10**10)


def check_engine(engine: Engine, *, longest_seconds: float = 60.0, examples: int = 60, seed_number: int = 0) -> None:
    """Check an engine against its contract; raises ContractBroken that names the promise and what was seen.

    longest_seconds  how long the engine may leave a guest without a cut, however quiet it is
    """
    _check_value(engine)
    drawn: tuple[tuple[Callable[..., None], dict[str, st.SearchStrategy[Any]]], ...] = (
        (_is_pure, {"view": _views(), "shift": st.integers(-(10**15), 10**15)}),
        (_comes_in_time, {"view": _views(), "longest_ns": st.just(seconds_to_nanos(longest_seconds))}),
        (_holds_outputs, {"epoch": _marks, "log_index": _marks, "more": _more, "more_log": _more}),
    )
    for clause, drawing in drawn:
        try_with(clause, examples, seed_number, engine=st.just(engine), **drawing)


def _views() -> st.SearchStrategy[EngineView]:
    """Draw what an engine may be shown; also what the protocol would never show it."""
    return st.builds(
        EngineView,
        last_cut_at=_times,
        epochs_in_flight=st.integers(0, 8),
        outputs_waiting=st.integers(0, 1000),
        oldest_output_at=st.none() | _times,
        oldest_uncut_at=st.none() | _times,
        is_guest_idle=st.booleans(),
        epoch_ns=_spans,
        dirty_pages=st.integers(0, 1 << 20),
        pause_ns=_spans,
        commit_ns=_spans,
        round_trip_ns=_spans,
    )


def _check_value(engine: Engine) -> None:
    require(bool(engine.name) and engine.name.isidentifier(), _VALUE, f"its name is {engine.name!r}")
    require(isinstance(engine, Hashable), _VALUE, f"{engine!r} cannot be hashed")
    can_replay = Capability.REPLAY in engine.needs
    require(can_replay or not (engine.logs or engine.executes), _NEEDS, f"it needs {set(engine.needs)}")


def _is_pure(engine: Engine, view: EngineView, shift: int) -> None:
    due = engine.next_cut(view)
    require(engine.next_cut(view) == due, _PURE, f"{view} gave {due} and then another answer")
    moved = replace(
        view,
        last_cut_at=Nanos(view.last_cut_at + shift),
        oldest_output_at=_later(view.oldest_output_at, shift),
        oldest_uncut_at=_later(view.oldest_uncut_at, shift),
    )
    found = engine.next_cut(moved) - shift
    require(found == due, _NO_ORIGIN, f"{view} gave {due}; with all times moved by {shift}, {found}")


def _later(at: Nanos | None, shift: int) -> Nanos | None:
    return None if at is None else Nanos(at + shift)


def _comes_in_time(engine: Engine, view: EngineView, longest_ns: int) -> None:
    due, last = engine.next_cut(view), max(view.last_cut_at, view.oldest_output_at or view.last_cut_at)
    require(due <= last + longest_ns, _BOUNDED, f"{view} gave {due}, {due - last} ns behind the last cut or output")
    is_asked_early = view.oldest_output_at is not None and view.oldest_output_at < view.last_cut_at
    require(due >= view.last_cut_at or is_asked_early, _FORWARD, f"{view} gave {due}")


def _holds_outputs(engine: Engine, epoch: int, log_index: int, more: int, more_log: int) -> None:
    needs = engine.output_needs(epoch=epoch, log_index=log_index)
    own = Watermarks(0, log_index) if engine.logs else Watermarks(epoch, 0)
    require(needs.cover(own), _OWN, f"in epoch {epoch} with {log_index} records logged it needs {needs}, not {own}")
    attainable = Watermarks(epoch, log_index)
    require(attainable.cover(needs), _OWN, f"it needs {needs}, which is not made yet: it would wait for ever")
    later = engine.output_needs(epoch=epoch + more, log_index=log_index + more_log)
    require(later.cover(needs), _LATER, f"{needs}, and later {later}")
