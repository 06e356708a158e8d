"""The connection to a monitor: one thread that reads and writes, requests with one answer each, and an end for good.

Promises: outputs reach the sink in order, all that were said before a `paused` ahead of it; nothing waits for a monitor
for longer than a limit; a monitor that lies, hangs or is gone ends the connection with a reason, and so its guest. One
that is late with what it only tells of a guest that stands still may go on. Does not know memory.

A guest that stands still is told to pause again, each ASK_SECONDS: the answer says that its monitor lives.
"""

import os
import select
import socket
import threading
from collections.abc import Callable
from typing import Final

from ftvm.errors import BadFrame, GuestError, StateUnreadable
from ftvm.guests.silence import ASK_SECONDS, Silence
from ftvm.guests.vmm.messages import (
    Ended,
    Failed,
    FrameReader,
    MonitorAnswer,
    MonitorMessage,
    MonitorOutput,
    decode,
    frame,
)

__all__ = ["ANSWER_SECONDS", "MonitorLink"]

ANSWER_SECONDS: Final = 60.0
"""A monitor that is silent for this long hangs; a busy machine takes many seconds. A standby need not wait for it."""
# Its own limits say when it takes over, as it sees no progress here; to give up too soon loses a guest without one.

_SLOW_SECONDS: Final = 1.0
"""Whoever runs the guest is told of an answer that takes longer, and asked four times a second whether to wait on."""
_LOOK_SECONDS: Final = 0.25

_PIECE_BYTES: Final = 256 << 10
_PIECES_PER_TURN: Final = 64
_UNSENT_BYTES_MAX: Final = 1 << 20
"""Inputs beyond it are dropped: the monitor does not read."""
_LATE_OUTPUT_BYTES_MAX: Final = 64 << 20
"""What a monitor may still say after it was told to pause, until it answers."""
_OUTPUT_COST_BYTES: Final = 1 << 10
"""What an output counts for that has hardly any bytes: each takes room here."""

_SILENT: Final = "until it does, no takeover can run the guest here"

_REPLIES: Final = {"pause": "paused", "save": "saved", "load": "loaded", "dirty": "written"}


class MonitorLink:
    """One connection. `failure` says why it ended, `guest_failure` why the guest cannot run although it has not,
    `complaint` what the monitor did wrong, whether it has ended or not."""

    def __init__(
        self,
        connection: socket.socket,
        named: str,
        *,
        payload_bytes_max: int,
        answer_seconds: float,
        emit: Callable[[str, bytes], None],
        end: Callable[[str], None],
        may_wait: Callable[[str], bool],
        warn: Callable[[str], None],
    ) -> None:
        """Take a connection over.

        named     the monitor, for people
        emit      takes each output; `end` the reason of the guest's own end. Both are called in the connection's thread
        may_wait  tells whether an answer that is slow may be waited for; called in the thread that waits
        warn      tells the operator of a monitor that is silent though its guest stands still
        """
        self.failure: str | None = None
        self.guest_failure: str | None = None
        self.complaint: str | None = None
        self._connection = connection
        self._named = named
        self._answer_seconds = answer_seconds
        self._emit, self._end_guest, self._may_wait = emit, end, may_wait
        self.silence = Silence(f"{named} has not answered `pause`", _SILENT, warn)
        self._reader = FrameReader(payload_bytes_max)
        self._changed = threading.Condition()
        self._unsent = bytearray()
        self._asked: tuple[str, int] | None = None
        self._late: tuple[str, int] | None = None
        self._look: tuple[str, int] | None = None
        self._told = "welcome"
        self._answer: MonitorAnswer | None = None
        self._number = self._outputs = self._late_bytes = 0
        self._may_speak = self._stands = self._is_asking = self._is_closed = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._main, name="vmm-link", daemon=True)
        self._thread.start()

    # --- what the guest asks of it ---

    def ask(self, name: str, payload: bytes = b"", *, seconds: float | None = None) -> MonitorAnswer:
        """Send a request and wait for its answer, by default for as long as any may take.

        Raises GuestError if the connection has ended, or ends by this. Raises StateUnreadable if it goes on, without an
        answer to `save` or `dirty`: once only, until that answer comes after all, which nobody gets.
        """
        seconds = self._answer_seconds if seconds is None else seconds
        with self._changed:
            self._is_asking = True  # from now on nothing else is asked
        try:
            waited = self._wait_for(lambda: self._look is None, "pause", seconds, 0.0)
            with self._changed:
                if self.failure is None and self._look is not None:
                    self._note_late("pause", waited)
                if self.failure is not None:
                    raise GuestError(self.failure)
                self._number += 1
                self._asked, self._answer, self._late_bytes = (name, self._number), None, 0
                self._told = name
                self._send(frame([name, self._number], payload))
            waited = self._wait_for(lambda: self._answer, name, seconds, waited)
            with self._changed:
                if self._answer is None and self.failure is None:
                    self._note_late(name, waited)
                return self._take_reply()
        finally:
            self._is_asking = False

    def _wait_for(self, is_so: Callable[[], object], name: str, seconds: float, waited: float) -> float:
        """Wait until it is so, or the connection has ended, or for as long as may be; return how long in all."""
        while True:
            step = min(_LOOK_SECONDS, seconds - waited)
            with self._changed:
                if self._changed.wait_for(lambda: is_so() or self.failure, step):
                    return waited
            waited += step
            told = f"{self._named} has not answered `{name}` for {waited:g} s"
            if waited >= seconds or (waited >= _SLOW_SECONDS and not self._may_wait(told)):
                return waited

    def let_run(self, *, stop_at_output: bool) -> None:
        """Have the guest run, and its outputs through."""
        with self._changed:
            if self.failure is None:
                self._may_speak, self._stands, self._told = True, False, "resume"
                self._send(frame(["resume", stop_at_output]))

    def tell(self, *header: str, payload: bytes = b"") -> None:
        """Say something that has no answer; dropped if the monitor does not read."""
        with self._changed:
            if self.failure is None and len(self._unsent) < _UNSENT_BYTES_MAX:
                self._told = header[0]
                self._send(frame(header, payload))

    def refuse(self, lie: str) -> None:
        """End the connection, because of what the monitor answered."""
        with self._changed:
            self._give_up(f"{self._named} broke the protocol: {lie}")

    def wait_ended(self, seconds: float) -> None:
        """Give the connection so long to end by itself."""
        with self._changed:
            self._changed.wait_for(lambda: self.failure, seconds)

    def forget_guest_failure(self) -> None:
        """Note that another state was loaded: the guest may run again."""
        with self._changed:
            self.guest_failure = None

    def cut(self) -> None:
        """End the connection without a word."""
        with self._changed:
            self._give_up("the connection was cut", is_ours=True)

    def close(self) -> None:
        """Say goodbye, end the connection and the thread. The monitor stops its guest for good. Idempotent."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            if self.failure is None:
                self._send(frame(["end"]))
            self._give_up("the guest was closed", is_ours=True)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._connection.close()
        os.close(self._wake)

    # --- under the lock ---

    def _note_late(self, name: str, waited: float) -> None:
        """Go on without an answer that changes nothing about a guest that stands still; else end the connection."""
        slow = f"{self._named} did not answer `{name}` within {waited:g} s"
        self.complaint = self.complaint or slow
        if name in ("save", "dirty") and self._late is None:
            self._late, self._asked = (_REPLIES[name], self._number), None
            raise StateUnreadable(slow)
        self._give_up(f"{slow}; its process is left as it is")

    def _take_reply(self) -> MonitorAnswer:
        answer, self._asked, self._answer = self._answer, None, None
        if answer is None:
            raise GuestError(self.failure or f"{self._named} did not answer")
        return answer

    def _send(self, message: bytes) -> None:
        self._unsent += message
        self._flush()
        if self._unsent:
            os.eventfd_write(self._wake, 1)  # the thread sends the rest

    def _flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._connection.send(self._unsent, socket.MSG_NOSIGNAL)]
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()  # what it said last is still read; then the end of the connection is seen

    def _give_up(self, reason: str, *, is_ours: bool = False) -> None:
        """End the connection for good: by it the monitor learns to stop the guest. `is_ours`: it did nothing wrong."""
        if self.failure is None:
            self.failure = reason
            self.complaint = self.complaint or (None if is_ours else reason)
        self._may_speak = False
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            self._unsent.clear()  # the monitor was faster
        os.eventfd_write(self._wake, 1)
        self._changed.notify_all()

    # --- its thread ---

    def _main(self) -> None:
        reason = "the thread of the connection ended by an error"
        try:
            while self.failure is None:
                self._wait()
                self._read()
        except BadFrame as wrong:
            reason = f"{self._named} broke the protocol: {wrong}"
        except EOFError:
            reason = f"{self._named} closed its connection behind `{self._told}`: it has ended, or given up its guest"
        except OSError as wrong:
            reason = f"the connection to {self._named} broke behind `{self._told}`: {wrong.strerror}"
        finally:
            with self._changed:
                self._give_up(reason)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._connection, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        is_quiet = not poll.poll(ASK_SECONDS * 1000 if self._stands else None)
        with self._changed:
            if is_quiet and self._stands and not self._is_asking:
                self._ask_again()
            if self._unsent:
                self._flush()
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                return

    def _ask_again(self) -> None:
        """Tell a guest that stands still to pause, unless the answer to the last time is owed still."""
        if self._look is None:
            self._number += 1
            self._look = ("paused", self._number)
            self._send(frame(["pause", self._number]))
            return
        self.silence.note(is_owed=True)
        if self.silence.seconds >= self._answer_seconds:
            self._note_late("pause", self.silence.seconds)

    def _read(self) -> None:
        for _ in range(_PIECES_PER_TURN):
            try:
                piece = self._connection.recv(_PIECE_BYTES)
            except BlockingIOError:
                return
            if not piece:
                raise EOFError
            for header, payload in self._reader.take(piece):
                self._take(decode(header, payload))
            if self.failure is not None:
                return

    def _take(self, message: MonitorMessage) -> None:
        match message:
            case MonitorOutput():
                self._take_output(message)
            case MonitorAnswer():
                self._take_answer(message)
            case Ended(reason=reason):
                self._require_running("the guest's end")
                with self._changed:
                    self._may_speak, self.guest_failure = False, f"the guest ended: {reason}"
                self._end_guest(reason)
            case Failed(reason=reason):
                with self._changed:
                    self._may_speak, self.guest_failure = False, reason

    def _take_output(self, output: MonitorOutput) -> None:
        self._require_running(f"output {output.number}")
        self._outputs += 1
        if output.number != self._outputs:
            raise BadFrame(f"output {output.number} came where output {self._outputs} is due")
        if self._asked is not None:
            self._late_bytes += len(output.payload) + _OUTPUT_COST_BYTES
        if self._late_bytes > _LATE_OUTPUT_BYTES_MAX:
            raise BadFrame("it goes on speaking after it was told to pause")
        self._emit(output.channel, output.payload)

    def _require_running(self, what: str) -> None:
        if not self._may_speak:
            raise BadFrame(f"{what} came from a guest that stands still")

    def _take_answer(self, answer: MonitorAnswer) -> None:
        with self._changed:
            if self._late == (answer.name, answer.number):
                self._late = None
                return
            if self._look == (answer.name, answer.number):
                self._look = None
                self.silence.note(is_owed=False)
                self._changed.notify_all()
                return
            if self._asked is None or (_REPLIES[self._asked[0]], self._asked[1]) != (answer.name, answer.number):
                raise BadFrame(f"nobody asked for `{answer.name}` {answer.number}")
            if answer.name == "paused":
                self._may_speak, self._stands = False, True
            self._answer = answer
            self._changed.notify_all()
