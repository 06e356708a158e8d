"""The guest on this host: runs it, pauses it, has it follow, changes its engine, and hands on what it emits.

Whatever is done to a guest that runs is done while it is paused, and all that it emitted before is handed on first, so
that each output is judged by the engine under which it was made. Who wants the guest to stand still for longer says so
in the replica's steps; `stall_or_go_on` goes by that.

Does not know: memory and captures (capture.py), effects and messages (driver.py).
"""

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import cast

from ftvm.checkpoint import END_CHANNEL, Checkpoint, LogRecord
from ftvm.encode.apply import CommittedMemory
from ftvm.errors import GuestError
from ftvm.interfaces import Capability, Clock, Engine, ExactStopGuest, Guest, ReplayableGuest
from ftvm.protocol import effects as do
from ftvm.protocol.active import Active
from ftvm.protocol.replica import Replica
from ftvm.runtime.follow import Follower, replay
from ftvm.runtime.sink import NumberingSink
from ftvm.units import Nanos

__all__ = ["GuestRunner"]


class GuestRunner:
    """One guest. `is_running` tells whether it is this host's to run, `is_stalled` whether it is paused all the same.

    engine        the one under which it runs; None before the first run
    stops_itself  the guest pauses itself behind each output
    """

    def __init__(
        self, guest: Guest, sink: NumberingSink, memory: CommittedMemory, replica: Replica, clock: Clock
    ) -> None:
        self.is_running = False
        self.is_stalled = False
        self.stops_itself = False
        self.engine: Engine | None = None
        self._guest = guest
        self._sink = sink
        self._memory = memory
        self._replica = replica
        self._clock = clock
        self._follower: Follower | None = None

    # --- running ---------------------------------------------------------------------------------------------------

    def run(self, effect: do.Run) -> GuestError | None:
        """Let the guest run here, from where the log ends; return why it cannot, None if it does."""
        try:
            self._reach_end_of_log(effect)
        except GuestError as wrong:
            return GuestError(f"the replay diverged: {wrong}")
        self._replica.on_outputs([output for output, _ in self._sink.drain().outputs], 0, self._clock.now())
        self._sink.open(self._sink.output_next, effect.log_next, is_logging=False)
        self.use(effect.engine)
        self.is_running = True
        self._guest.resume()
        return None

    def _reach_end_of_log(self, effect: do.Run) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.finish()
        else:
            self._sink.open(effect.output_next, effect.log_next, is_logging=False)
            replay(cast("ReplayableGuest", self._guest), effect.log, self._sink)

    def use(self, engine: Engine) -> None:
        """Have the paused guest go on under `engine`; all that it emitted before is drained."""
        self.engine = engine
        self._sink.set_logging(engine.logs)
        can_stop = Capability.EXACT_OUTPUT_STOP in self._guest.can
        self.stops_itself = engine.stands_still and can_stop
        if can_stop:
            cast("ExactStopGuest", self._guest).stop_at_output(self.stops_itself)

    def change_engine(self, engine: Engine) -> None:
        """Change the engine where no cut does it: what the guest emitted before the pause is judged by the old one."""
        if not self.is_running:
            return
        self._guest.pause()
        self.is_stalled = True
        self.hand_on(self._clock.now())
        self.use(engine)
        self._replica.on_engine_used(engine, self._clock.now())
        self.stall_or_go_on()

    def stall_or_go_on(self) -> None:
        """Keep the guest paused while it must stand still, and no longer."""
        if not self.is_running:
            return
        steps = self._replica.steps
        is_stalled = isinstance(steps, Active) and steps.must_stand_still()
        if is_stalled != self.is_stalled or self.stops_itself:
            self.is_stalled = is_stalled
            if is_stalled:
                self._guest.pause()
            else:
                self._guest.resume()

    def stall(self) -> None:
        """Pause the guest until the next `stall_or_go_on`."""
        self._guest.pause()
        self.is_stalled = True

    def deliver(self, inputs: Iterable[tuple[str, bytes]]) -> None:
        """Give the guest what came for it; nobody else takes it."""
        if self.is_running:
            for channel, payload in inputs:
                self._guest.deliver(channel, payload)

    def hand_on(self, now: Nanos) -> bool:
        """Give the replica what came from the guest; tell whether that was any output."""
        if self._sink.is_empty:
            return False
        emitted = self._sink.drain()
        if emitted.log:
            self._replica.on_log(list(emitted.log), now)
        for log_index, group in groupby(emitted.outputs, key=itemgetter(1)):
            self._replica.on_outputs([output for output, _ in group], log_index, now)
        return bool(emitted.outputs)

    def stop_behind_output(self) -> None:
        """Take a guest that stops itself behind each output, and has made one, to have stopped."""
        if self.stops_itself:
            self._guest.pause()  # it is about to; a resume that came before would be lost

    def failure(self) -> str | None:
        """Return why the guest ended by itself, None while it runs or is not this host's to run."""
        return self._guest.failure() if self.is_running else None

    def has_failed(self, now: Nanos) -> bool:
        """Tell whether the guest itself is lost: a failed capture would drop the standby that is to take it over.

        What it said before is handed on: a guest that has come to its own end has not failed.
        """
        reason = self.failure()
        self.hand_on(now)
        return reason is not None and not self.is_end_held()

    def is_end_held(self) -> bool:
        """Whether the guest came to its own end, and that is not safe yet."""
        steps = self._replica.steps
        if not isinstance(steps, Active) or not steps.gate.held:
            return False
        return steps.gate.held[-1].output.channel == END_CHANNEL

    def pause_for_good(self) -> None:
        """Pause the guest, which is no longer this host's to run; what it would still emit is dropped."""
        self.is_running = False
        self.is_stalled = False
        self._follower = None
        self._guest.pause()
        self._sink.close()

    # --- standing by -----------------------------------------------------------------------------------------------

    def load(self, effect: do.Load) -> None:
        """Load a committed state into the paused guest; one that follows has it already."""
        if self._follower is not None:
            self._replica.on_loaded(self._clock.now())
            return
        try:
            self._guest.pause()
            self._guest.load_devices(effect.devices)
        except GuestError as wrong:
            self._replica.on_load_failed(str(wrong), self._clock.now())
        else:
            self._replica.on_loaded(self._clock.now())

    def unload(self) -> None:
        """Keep what was loaded from being run."""
        self._guest.pause()

    def start_following(self, effect: do.Follow) -> None:
        """Load the first copy; from now on the guest is led along the log."""
        try:
            if effect.devices is not None:
                self._guest.load_devices(effect.devices)
        except GuestError as wrong:
            self._replica.on_diverged(do.Difference(reason=f"the first copy does not load: {wrong}"), self._clock.now())
            return
        self._sink.open(effect.output_next, 1, is_logging=False)
        self._follower = Follower(cast("ReplayableGuest", self._guest), self._memory, self._sink)

    def lead_along(self, items: Iterable[LogRecord | Checkpoint]) -> None:
        """Have the guest follow. There is none if the first copy did not load: then the role ends with this step."""
        if self._follower is not None:
            self._follower.add(items)

    @property
    def has_work(self) -> bool:
        """Whether a part of the log waits to be executed."""
        return self._follower is not None and self._follower.has_work

    def follow_on(self, now: Nanos) -> None:
        """Execute a portion of what waits, and report what came of it."""
        if self._follower is None or not self._follower.has_work:
            return
        outcome = self._follower.advance()
        outputs = [output for output, _ in self._sink.drain().outputs]
        if outputs:
            self._replica.on_followed(outputs, now)
        if isinstance(outcome, do.Difference):
            self._follower = None
            self._replica.on_diverged(outcome, now)
        elif outcome is not None:
            self._replica.on_agreed(outcome, now)

    def rest(self) -> None:
        """Follow no longer."""
        self._follower = None
        self._sink.close()
