"""The guest on this host: runs it, pauses it, has it follow, changes its engine, takes out what it emits.

A running guest is paused for every change, and all that it emitted before is taken out first, so that each output is
judged by the engine under which it was made. The results are returned as reports. The replica decides whether the guest
must stay paused; `stall_or_go_on` follows it.

Does not know: memory and captures (capture.py), effects and messages (driver.py).
"""

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

from ftvm.checkpoint import Checkpoint, LogRecord
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import GuestError
from ftvm.interfaces import Capability, Engine, ExactStopGuest, Guest, ReplayableGuest
from ftvm.protocol import effects as do
from ftvm.protocol.reports import (
    Emitted,
    EngineUsed,
    GuestAgreed,
    GuestDiverged,
    LoadFailed,
    LogFollowed,
    Report,
    StateLoaded,
)
from ftvm.runtime.follow import Follower, replay
from ftvm.runtime.sink import NumberingSink

__all__ = ["GroupGuest", "GuestRunner", "IdleTellingGuest", "SilenceTellingGuest"]


class IdleTellingGuest(Guest, Protocol):
    """A guest with Capability.TELLS_IDLE."""

    def is_idle(self) -> bool:
        """Tell whether it waits for an input or a timer, and has taken all inputs. From any thread, also while it runs;
        never blocks. A wrong answer costs time, nothing else."""


class SilenceTellingGuest(Guest, Protocol):
    """A guest with Capability.TELLS_SILENCE."""

    def silence(self) -> str | None:
        """Return who has not answered what, and for how long, though the guest stands still; None if nobody owes an
        answer. Never blocks. Where that lasts, `failure` says so, too."""


class GroupGuest(Guest, Protocol):
    """A guest with Capability.TAKES_GROUPS."""

    def deliver_all(self, inputs: Sequence[tuple[str, bytes]]) -> None:
        """Give it inputs that came together, as by `deliver` of one after the other.

        What it says to them within a fraction of a millisecond it may hand on to its sink in the caller's thread.
        """


class GuestRunner:
    """One guest. `is_running` tells whether it is this host's to run, although it may be paused (`is_paused`) all the
    same.

    engine        the one under which it runs; None before the first run
    stops_itself  the guest pauses itself behind each output
    follower      leads the guest along the log; None where it does not follow
    """

    def __init__(
        self, guest: Guest, sink: NumberingSink, memory: CommittedMemory, *, logs_always: bool = False
    ) -> None:
        """`logs_always`: the guest's inputs are logged under each engine, not only where outputs need that."""
        self.is_running = False
        self.stops_itself = False
        self._asks_idle = False
        self.engine: Engine | None = None
        self.is_paused = True
        self._guest = guest
        self._sink = sink
        self._memory = memory
        self._logs_always = logs_always and Capability.REPLAY in guest.can
        self._can_stop = Capability.EXACT_OUTPUT_STOP in guest.can
        self._tells_idle = Capability.TELLS_IDLE in guest.can
        self._takes_groups = Capability.TAKES_GROUPS in guest.can
        self._tells_silence = Capability.TELLS_SILENCE in guest.can
        self.follower: Follower | None = None

    # --- running ---------------------------------------------------------------------------------------------------

    def run(self, effect: do.RunGuest) -> Emitted | GuestError:
        """Let the guest run here, from where the log ends; return what it emitted up to there, or why it cannot."""
        try:
            self._reach_end_of_log(effect)
        except GuestError as wrong:
            return GuestError(f"the replay diverged: {wrong}")
        made = self._sink.drain().said
        self._sink.open(self._sink.output_next, effect.log_next, is_logging=False)
        self.use(effect.engine)
        self.is_running = True
        self.is_paused = False
        self._guest.resume()
        return Emitted(said=[(outputs, 0) for outputs, _ in made])

    def _reach_end_of_log(self, effect: do.RunGuest) -> None:
        follower, self.follower = self.follower, None
        if follower is not None:
            follower.finish()
        else:
            self._sink.open(effect.output_next, effect.log_next, is_logging=False)
            replay(cast("ReplayableGuest", self._guest), effect.log, self._sink)

    def use(self, engine: Engine) -> None:
        """Have the paused guest go on under `engine`; all that it emitted before is drained."""
        self.engine = engine
        self._sink.set_logging(engine.logs or self._logs_always)
        self.stops_itself = engine.stops_at_output and self._can_stop
        self._asks_idle = engine.stands_still and not engine.stops_at_output and self._tells_idle
        if self._can_stop:
            cast("ExactStopGuest", self._guest).stop_at_output(self.stops_itself)

    def change_engine(self, engine: Engine) -> tuple[Report, ...]:
        """Change the engine where no cut does it: what the guest emitted before the pause is judged by the old one.

        The guest stays paused until the next `stall_or_go_on`.
        """
        if not self.is_running:
            return ()
        self.stall()
        emitted = self._sink.drain()
        self.use(engine)
        return emitted, EngineUsed(engine)

    def stall_or_go_on(self, *, must_stand_still: bool) -> None:
        """Keep the guest paused while it must stand still, and no longer."""
        if not self.is_running:
            return
        if must_stand_still:
            if not self.is_paused:
                self.stall()
        elif self.is_paused:
            self.is_paused = False
            self._guest.resume()

    def stall(self) -> None:
        """Pause the guest until the next `stall_or_go_on`."""
        if not self.is_paused:
            self._guest.pause()
            self.is_paused = True

    def deliver(self, inputs: Sequence[tuple[str, bytes]]) -> None:
        """Give the guest its input. What it makes of that may be in the sink at once, and nobody is woken for it."""
        if self.is_running and self._takes_groups:
            self._sink.is_heard = True  # who calls looks for what the guest makes of it
            cast("GroupGuest", self._guest).deliver_all(inputs)
            self._sink.is_heard = False
        elif self.is_running:
            for channel, payload in inputs:
                self._guest.deliver(channel, payload)

    def take_emitted(self) -> Emitted:
        """Take out what the guest has emitted. One that stops itself behind each output has stopped then."""
        emitted = self._sink.drain()
        if self.stops_itself and emitted.said:
            self.stall()  # it is about to stop; a resume that came before would be lost
        if self._asks_idle and cast("IdleTellingGuest", self._guest).is_idle():
            return Emitted(emitted.log, emitted.said, is_guest_idle=True, has_flush=emitted.has_flush)
        return emitted

    def failure(self) -> str | None:
        """Return why the guest can never run again, None while it can. One that does not run here counts, too: as the
        guest of a standby it would be lost with the next takeover."""
        return self._guest.failure()  # rule: failed_guest_ends_its_host

    def silence(self) -> str | None:
        """Return why the guest, which stands still, could not run now; None if nothing is known to be in its way."""
        return cast("SilenceTellingGuest", self._guest).silence() if self._tells_silence else None

    def pause_for_good(self) -> None:
        """Pause the guest, which is no longer this host's to run; what it would still emit is dropped."""
        self.is_running = False
        self.follower = None
        self._pause_anyhow()
        self._sink.close()

    # --- standing by -----------------------------------------------------------------------------------------------

    def load(self, effect: do.Load) -> StateLoaded | LoadFailed:
        """Load a committed state into the paused guest; one that follows has it already."""
        if self.follower is not None:
            return StateLoaded()
        try:
            self._pause_anyhow()
            self._guest.load_devices(effect.devices)
        except GuestError as wrong:
            return LoadFailed(str(wrong))
        reason = self._guest.failure()  # a state in a guest that cannot run is worth nothing
        return StateLoaded() if reason is None else LoadFailed(reason)

    def unload(self) -> None:
        """Make sure that what was loaded never runs."""
        self._pause_anyhow()

    def _pause_anyhow(self) -> None:
        self.is_paused = True
        self._guest.pause()

    def start_following(self, effect: do.Follow) -> GuestDiverged | None:
        """Load the first copy; from now on the guest is led along the log. Returns why it cannot be, None if it is."""
        try:
            if effect.devices is not None:
                self._guest.load_devices(effect.devices)
        except GuestError as wrong:
            return GuestDiverged(do.Difference(reason=f"the first copy does not load: {wrong}"))
        self._sink.open(effect.output_next, 1, is_logging=False)
        self.follower = Follower(cast("ReplayableGuest", self._guest), self._memory, self._sink)
        return None

    def lead_along(self, items: Iterable[LogRecord | Checkpoint]) -> None:
        """Have the guest follow. If the first copy did not load, there is no follower, and the role ends with this
        step."""
        if self.follower is not None:
            self.follower.add(items)

    def follow_on(self) -> Sequence[Report]:
        """Have the follower execute a portion of what waits, and report what came of it."""
        if (follower := self.follower) is None:
            return ()
        self._sink.is_heard = True  # else each portion would have the loop turn once more, for nothing
        outcome = follower.advance()
        self._sink.is_heard = False
        reports: list[Report] = [LogFollowed(outputs) for outputs, _ in self._sink.drain().said]
        if isinstance(outcome, do.Difference):
            self.follower = None
            reports.append(GuestDiverged(outcome))
        elif outcome is not None:
            reports.append(GuestAgreed(outcome, follower.written))
        return reports

    def rest(self) -> None:
        """Follow no longer."""
        self.follower = None
        self._sink.close()
