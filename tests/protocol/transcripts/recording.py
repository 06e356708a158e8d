"""Writes down what a pair of replicas does, as text that a reviewer reads.

One line for each message that arrives or is lost, effect, event, request and answer, in the order in which they happen.
What comes all the time and tells nothing is left out: heartbeats, acknowledgements that repeat the last one, reads by
an active of a record that it knows, announcements that repeat the first, and effects that only order the work within
a host.
"""

from dataclasses import dataclass, fields
from typing import Final

from ftvm.checkpoint import GuestPosition
from ftvm.encode import messages as say
from ftvm.events import Committed, CopyProgress, Event, RecordLearned
from ftvm.interfaces import CompareAndSet, Record
from ftvm.protocol import effects as do
from ftvm.protocol.core import Role, Settings
from ftvm.protocol.effects import Difference
from ftvm.protocol.reports import GuestAgreed, GuestDiverged
from ftvm.units import Nanos

from ..harness import MS, ORIGIN, Host, Pair

UNTOLD: Final = (CopyProgress, RecordLearned)
"""Events that a line of a message, or of an answer, tells as well."""


def record_text(record: Record) -> str:
    return f"({record.generation}, {record.active or '-'}, {record.standby or '-'})"


def message_text(message: say.Message) -> str | None:
    """Return a message as words, or None for a heartbeat."""
    match message:
        case say.Join():
            return f"JOIN, knows {', '.join(message.engines)}"
        case say.Welcome():
            return f"WELCOME {message.joiner}"
        case say.Refuse():
            return f"REFUSE {message.joiner}{' for good' if message.is_final else ''}: {message.reason}"
        case say.CacheDigests():
            end = ", the last" if message.is_last else ""
            return f"CACHE, digests of {len(message.digests) // 16} pages from {message.first} on{end}"
        case say.CacheKept():
            kept = int.from_bytes(message.kept, "little").bit_count()
            return f"KEEP {kept} of {message.pages} pages from {message.first} on"
        case say.Copy():
            return f"COPY round {message.round}"
        case say.EpochPart() if message.checkpoint is None:
            return f"EPOCH {message.epoch} part {message.part}, pages"
        case say.EpochPart():
            return _end_of_epoch(message)
        case say.Log():
            return f"LOG {message.records[0].index}..{message.records[-1].index}"
        case say.Ack():
            return f"ACK epoch {message.epoch}, messages below {message.received}"
        case say.Prepare():
            return f"PREPARE epoch {message.epoch}" if message.epoch else "PREPARE, the guest still runs"
        case say.Prepared():
            return f"PREPARED epoch {message.epoch}{f', not: {message.error}' if message.error else ''}"
        case say.Leave():
            return f"LEAVE: {message.reason}"
        case say.Ping() | say.Pong():
            return None


def _end_of_epoch(message: say.EpochPart) -> str:
    checkpoint = message.checkpoint
    assert checkpoint is not None
    numbers = [output.number for output in checkpoint.outputs]
    outputs = f", with {_outputs_text(numbers[0], numbers[-1])}" if numbers else ""
    pages = "pages and " if message.batch is not None else ""
    return f"EPOCH {message.epoch} {pages}end, on {checkpoint.base}{outputs}"


def _outputs_text(first: int, last: int) -> str:
    return f"output {first}" if first == last else f"outputs {first}..{last}"


def effect_text(effect: do.Effect) -> str | None:
    """Return an effect as words, or None for one that is no news."""
    match effect:
        case do.Cut():
            return f"cut epoch {effect.epoch}"
        case do.Release():
            return f"release {_outputs_text(effect.outputs[0].number, effect.outputs[-1].number)}"
        case do.RunGuest():
            return f"run the guest under {effect.engine.name}, its next output is {effect.output_next}"
        case do.Stop():
            return "stop the guest"
        case do.Load():
            return "load the committed state"
        case do.Unload():
            return "unload what was loaded"
        case do.StartCopy():
            return "start the first copy"
        case do.Follow():
            return "execute the log beside the active"
        case do.Compare():
            return f"compare with epoch {effect.checkpoint.epoch}"
        case do.Measure():
            return "measure the memory that the guest left behind"
        case do.Announce():
            return "announce the guest's address"
        case do.Fail():
            return f"fail: {effect.error}"
        case do.Tell() if not isinstance(effect.event, UNTOLD):
            return event_text(effect.event)
        case _:
            return None


def event_text(event: Event) -> str:
    """Return an event with what it says; no time, nothing that is 0 or empty, no bytes."""
    if isinstance(event, Committed):
        return f"epoch {event.epoch} is committed"
    names = [one.name for one in fields(event) if one.name not in ("at", "guest_id")]
    parts = [_field_text(name, getattr(event, name)) for name in names if getattr(event, name)]
    return f"[{type(event).__name__}{': ' if parts else ''}{', '.join(parts)}]"


def _field_text(name: str, value: object) -> str:
    if name.endswith("_ns") and isinstance(value, int):
        return f"{name.removesuffix('_ns')} {value / MS:g} ms"
    if isinstance(value, GuestPosition):
        return f"{name} at {value.retired}+{value.idled}"
    if isinstance(value, tuple):
        return f"{name} {' '.join(map(str, value))}"
    return f"{name.replace('_', ' ')} {value}" if name not in ("reason", "outcome", "error") else str(value)


@dataclass
class RecordedHost(Host):
    """A host whose doings are written down.

    difference  how its guest, which follows, is to differ at the next mark; none if it is not to
    """

    difference: Difference | None = None
    _acknowledged: str = ""
    _is_announced: bool = False

    @property
    def _page(self) -> "RecordedPair":
        assert isinstance(self.world, RecordedPair)
        return self.world

    def emit(self, *payloads: bytes) -> None:
        first, last = self.output_next, self.output_next + len(payloads) - 1
        self._page.line(f"{self.name}: the guest emits {_outputs_text(first, last)}")
        super().emit(*payloads)

    def tick(self) -> None:
        before = self.outstanding
        super().tick()
        if isinstance(self.outstanding, CompareAndSet) and self.outstanding is not before:
            self._page.line(f"{self.name} -> arbiter  propose {record_text(self.outstanding.record)}")

    def answer(self, *, is_lost: bool = False, is_applied: bool = True) -> None:
        request, known = self.outstanding, self.core.arbiter.known
        record = self._page.store.record
        if is_lost:
            self._page.line(f"arbiter -x {self.name}  no answer")
        elif isinstance(request, CompareAndSet):
            record = self._page.store.apply(request)
            self._page.line(f"arbiter -> {self.name}  {record_text(record)}")
        elif record != known or self.role is Role.STANDBY:
            self._page.line(f"arbiter -> {self.name}  {record_text(record)}, read")
        super().answer(is_lost=is_lost, is_applied=is_applied)

    def take(self, sender: Host, sent: do.Send) -> None:
        text = self._news(sender, sent)
        if text is not None:
            self._page.line(f"{sender.name} -> {self.name}  {text}")
        super().take(sender, sent)

    def lose(self) -> None:
        """Lose what this host has sent and nobody has taken yet."""
        while self.sent:
            sent = self.sent.popleft()
            text = self._news(self, sent)
            if text is not None:
                self._page.line(f"{self.name} -x {sent.peer}  {text}")

    def _news(self, sender: Host, sent: do.Send) -> str | None:
        """Return a message as words; None for what repeats the last acknowledgement, or is a heartbeat."""
        assert isinstance(sender, RecordedHost)
        text = message_text(sent.message)
        if isinstance(sent.message, say.Ack):
            is_repeated, sender._acknowledged = text == sender._acknowledged, text or ""
            return None if is_repeated else text
        return f"{text} (released {sent.envelope.released})" if text and sent.envelope.released else text

    def _perform_one(self, effect: do.Effect) -> None:
        text = effect_text(effect)
        if text is not None and not (isinstance(effect, do.Announce) and self._is_announced):
            self._page.line(f"{self.name}: {text}")
        self._is_announced = isinstance(effect, do.Announce) or (
            self._is_announced and not isinstance(effect, do.RunGuest)
        )
        super()._perform_one(effect)
        if isinstance(effect, do.Compare):
            self._compare(effect)

    def _compare(self, effect: do.Compare) -> None:
        if self.difference is None:
            self.give(GuestAgreed(effect.checkpoint))
        else:
            self.give(GuestDiverged(self.difference))


class RecordedPair(Pair):
    """Hosts a and b, whose doings are the lines of a transcript."""

    host = RecordedHost
    a: RecordedHost
    b: RecordedHost

    def __init__(self, settings: Settings | None = None, *, other: Settings | None = None) -> None:
        self.lines: list[str] = []
        self._told_at = Nanos(ORIGIN)
        super().__init__(settings, other=other)

    def boot_b_again(self, settings: Settings) -> None:
        """Replace b by a host that has nothing."""
        host = self.boot("b", settings, "a", starts=False, prefix="n")
        assert isinstance(host, RecordedHost)
        self.b = host

    def line(self, text: str) -> None:
        """Write a line, and before it how much time has passed since the last one."""
        if self.now != self._told_at:
            self.lines.append(f"    + {(self.now - self._told_at) / MS:g} ms")
            self._told_at = self.now
        self.lines.append(text)

    def act(self, text: str) -> None:
        """Write what the scenario does from here on."""
        self.lines += ["", f"-- {text}"] if self.lines else [f"-- {text}"]

    def record(self) -> None:
        """Write what the record is in the end."""
        self.line(f"arbiter: {record_text(self.store.record)}")

    def forget(self) -> None:
        """Leave out what came until now: another transcript tells it."""
        self.lines.clear()
        self._told_at = self.now
