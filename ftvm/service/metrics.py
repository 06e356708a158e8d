"""A page of metrics for Prometheus, over HTTP, served by the host's loop.

Every metric has the label `guest`; examples/deploy/METRICS.md lists them. Times are in seconds and sizes in bytes,
as Prometheus wants them. Counters and histograms count since the start of this process. Needs the package
`prometheus-client`: the extra `metrics`.
"""

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from ftvm import events
from ftvm.errors import ConfigError, InternalError, TransportError
from ftvm.runtime.services import Controls
from ftvm.runtime.standing import State
from ftvm.runtime.status import HISTOGRAM_BOUNDS_US, Histogram, Status
from ftvm.service.server import Server
from ftvm.transport.endpoints import EndpointUrl, parse_endpoint
from ftvm.units import Nanos

__all__ = ["MetricsPage", "parse_address"]

ROLES: Final = ("empty", "syncing", "standby", "active")
REQUEST_BYTES_MAX: Final = 8192
_BACKLOG: Final = 16

GAUGES: Final[dict[str, tuple[str, Callable[[Status], float]]]] = {
    "ftvm_protected": ("1 if the guest runs here and its standby could take over now", lambda s: s.is_protected),
    "ftvm_arbiter_up": ("1 if the arbiter answers this host and can be written", lambda s: s.arbiter_error is None),
    "ftvm_failed": ("1 if this host has failed", lambda s: s.failure is not None),
    "ftvm_places_differ": (
        "1 if a peer keeps the record in another place than this host",
        lambda s: s.elsewhere is not None,
    ),
    "ftvm_generation": ("Generation of the newest record known", lambda s: s.generation),
    "ftvm_epoch": ("Last epoch cut (active) or committed (standby)", lambda s: s.epoch),
    "ftvm_epochs_in_flight": ("Epochs cut and not acknowledged yet", lambda s: s.epochs_in_flight),
    "ftvm_lag_seconds": ("Age of the oldest epoch in flight", lambda s: s.lag_ms / 1000),
    "ftvm_loop_late_seconds": (
        "How late the host's loop was, at most, in the last minute",
        lambda s: s.loop_late_ms / 1000,
    ),
    "ftvm_silence_seconds": ("Silence of the peer that is tolerated now", lambda s: s.silence_limit_ms / 1000),
    "ftvm_outputs_held": ("Outputs held until it is safe to release them", lambda s: s.outputs_held),
    "ftvm_copy_pages_left": ("Pages of the first copy still to send", lambda s: s.copy_pages_left),
    "ftvm_guest_memory_bytes": ("The guest's memory here, a disk kept in memory included", lambda s: s.guest_bytes),
    "ftvm_shadow_memory_bytes": ("The copy of it that an active keeps for its standby", lambda s: s.shadow_bytes),
    "ftvm_staging_memory_bytes": ("Set aside for checkpoints on their way", lambda s: s.staging_bytes),
}
COUNTERS: Final[dict[str, tuple[str, Callable[[Status], float]]]] = {
    "ftvm_checkpoints": ("Checkpoints committed", lambda s: s.checkpoints),
    "ftvm_takeovers": ("Takeovers by this host", lambda s: s.takeovers),
    "ftvm_outputs_released": ("Outputs released", lambda s: s.outputs_released),
    "ftvm_sent_bytes": ("Encoded pages and device state, shipped or received", lambda s: s.bytes_sent),
    "ftvm_captured_bytes": ("Changed pages, as whole pages", lambda s: s.bytes_raw),
}
COUNTED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "ftvm_frames_sent": ("Frames of the guest that left on its cable", ("frames_sent",)),
    "ftvm_frames_received": ("Frames for the guest that came", ("frames_received",)),
    "ftvm_frame_sent_bytes": ("Bytes of the frames that left", ("bytes_sent",)),
    "ftvm_frame_received_bytes": ("Bytes of the frames that came", ("bytes_received",)),
    "ftvm_frames_dropped": (
        "Frames and outputs dropped: the other end is absent or slow, the card is full, or no cable leads there",
        ("sends_dropped", "receives_dropped", "card_dropped", "outputs_unrouted"),
    ),
    "ftvm_frames_refused": ("Frames refused: of strangers, or too short", ("strangers_refused", "runts_refused")),
    "ftvm_frames_lost": ("Frames that a takeover did not send again: too many to travel", ("frames_lost",)),
    "ftvm_messages_sent": ("Messages to peers", ("messages_sent",)),
    "ftvm_messages_received": ("Messages from peers", ("messages_received",)),
    "ftvm_messages_refused": (
        "Messages that broke the protocol, or came from a peer that is ignored for that",
        ("malformed", "misdeeds", "ignored"),
    ),
    "ftvm_connections_refused": ("Handshakes refused for their key", ("refused",)),
    "ftvm_connections_dropped": ("Connections shut down: too much unread, or too many at once", ("hung_up",)),
}
"""Which counters of a status add up to a metric. A host that counts no such thing has no such metric."""

STORAGE: Final[dict[str, tuple[str, str]]] = {
    "ftvm_storage_read_bytes": ("Bytes that this process had read from storage", "read_bytes"),
    "ftvm_storage_written_bytes": ("Bytes that this process had written to storage", "write_bytes"),
}
"""What the kernel counts for this process, disks of the guest included: proc(5), /proc/self/io."""

HISTOGRAMS: Final[dict[str, tuple[str, Callable[[Status], Histogram]]]] = {
    "ftvm_pause_seconds": ("How long a checkpoint paused the guest", lambda s: s.pauses),
    "ftvm_output_delay_seconds": ("From when the guest made an output until it left", lambda s: s.output_delays),
}


def parse_address(text: str) -> EndpointUrl:
    """Return where the page is to be; raises ConfigError unless it reads HOST:PORT."""
    try:
        return parse_endpoint(f"tcp://{text}")
    except ConfigError as wrong:
        raise ConfigError(f"metrics {text!r}: write HOST:PORT, e.g. 127.0.0.1:9753") from wrong


class MetricsPage:
    """A service (runtime/services.py) that answers GET /metrics. Anybody who reaches the address may read it."""

    name = "metrics page"

    def __init__(self, address: str) -> None:
        """Listen at HOST:PORT; port 0 takes a free one. Raises ConfigError, TransportError."""
        listening = _listen(parse_address(address))
        self.port: int = listening.getsockname()[1]
        self._controls: Controls | None = None
        self._events: Counter[str] = Counter(dict.fromkeys(set(events.__all__) - {"Event"}, 0))
        self._server: Server | None = Server(listening, lambda: _Answer(self._page))

    def begin(self, controls: Controls) -> None:
        """See HostService."""
        self._controls = controls

    def fds(self) -> Sequence[int]:
        """See HostService."""
        return (self._server.fileno(),) if self._server is not None else ()

    def note(self, event: events.Event) -> None:
        """See HostService."""
        self._events[type(event).__name__] += 1

    def step(self, now: Nanos) -> Nanos | None:
        """See HostService."""
        return self._server.step(now) if self._server is not None else None

    def close(self) -> None:
        """See HostService."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def _page(self) -> bytes:
        if self._controls is None:
            raise InternalError("somebody is served before the host was introduced")
        registry = CollectorRegistry()
        registry.register(_Snapshot(self._controls.status(), self._events))
        ProcessCollector(registry=registry)
        return generate_latest(registry)


class _Snapshot(Collector):
    """The metrics of one guest at one moment."""

    def __init__(self, status: Status, events: Counter[str]) -> None:
        self._status = status
        self._events = events

    def collect(self) -> Iterable[Metric]:
        """Yield each metric once; the registry asks."""
        status, guest = self._status, [self._status.guest_id]
        role = GaugeMetricFamily("ftvm_role", "1 for the role of this host", labels=["guest", "role"])
        for each in ROLES:
            role.add_metric([*guest, each], float(each == status.role))
        yield role
        state = GaugeMetricFamily("ftvm_state", "1 for how the guest stands on this host", labels=["guest", "state"])
        for each in State:
            state.add_metric([*guest, each.value.replace(" ", "_")], float(each == status.state))
        yield state
        engine = GaugeMetricFamily("ftvm_engine", "1 for the engine in force", labels=["guest", "engine"])
        engine.add_metric([*guest, status.engine], 1.0)
        yield engine
        for name, (text, value) in GAUGES.items():
            gauge = GaugeMetricFamily(name, text, labels=["guest"])
            gauge.add_metric(guest, float(value(status)))
            yield gauge
        for name, (text, value) in COUNTERS.items():
            counter = CounterMetricFamily(name, text, labels=["guest"])
            counter.add_metric(guest, float(value(status)))
            yield counter
        for name, text, count in (*self._moved(), *_storage()):
            counter = CounterMetricFamily(name, text, labels=["guest"])
            counter.add_metric(guest, float(count))
            yield counter
        for name, (text, of) in HISTOGRAMS.items():
            histogram = HistogramMetricFamily(name, text, labels=["guest"])
            histogram.add_metric(guest, list(_buckets(of(status))), of(status).sum_us / 1_000_000)
            yield histogram
        yield self._count_events(guest)

    def _moved(self) -> Iterator[tuple[str, str, int]]:
        """Yield name, help and count of what the host moved, dropped and refused."""
        counters = self._status.counters
        for name, (text, parts) in COUNTED.items():
            if any(part in counters for part in parts):
                yield name, text, sum(counters.get(part, 0) for part in parts)

    def _count_events(self, guest: list[str]) -> Metric:
        counter = CounterMetricFamily("ftvm_events", "What happened, by the names of events", labels=["guest", "event"])
        for name, count in sorted(self._events.items()):
            counter.add_metric([*guest, name], float(count))
        return counter


def _storage() -> Iterator[tuple[str, str, int]]:
    """Yield name, help and count of what was read and written; nothing where the kernel does not tell."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return
    counts = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
    for name, (text, of) in STORAGE.items():
        yield name, text, counts.get(of, 0)


def _buckets(histogram: Histogram) -> Iterator[tuple[str, float]]:
    """Yield cumulative counts, as Prometheus has them, by upper bound in seconds."""
    so_far = 0
    for bound_us, count in zip((*HISTOGRAM_BOUNDS_US, None), histogram.counts, strict=True):
        so_far += count
        yield "+Inf" if bound_us is None else f"{bound_us / 1_000_000:g}", float(so_far)


class _Answer:
    """One HTTP request and its answer; the connection is closed after it (HTTP/1.0 manners)."""

    def __init__(self, page: Callable[[], bytes]) -> None:
        self.is_over = False
        self._page = page
        self._heard = b""

    def take(self, data: bytes) -> bytes:
        """See Dialogue."""
        if self.is_over:
            return b""
        self._heard += data
        if len(self._heard) > REQUEST_BYTES_MAX:
            return self._say("431 Request Header Fields Too Large", b"the request is too long\n")
        if b"\r\n\r\n" not in self._heard and b"\n\n" not in self._heard:
            return b""
        method, _, rest = self._heard.partition(b" ")
        path = rest.split(b" ")[0].split(b"?")[0].strip()
        if method != b"GET":
            return self._say("405 Method Not Allowed", b"only GET is answered\n")
        if path != b"/metrics":
            return self._say("404 Not Found", b"the metrics are at /metrics\n")
        return self._say("200 OK", self._page(), CONTENT_TYPE_LATEST)

    def speak(self, room_bytes: int) -> bytes:
        """See Dialogue."""
        del room_bytes
        return b""

    def close(self) -> None:
        """See Dialogue."""

    def _say(self, status: str, body: bytes, kind: str = "text/plain; charset=utf-8") -> bytes:
        self.is_over = True
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        return head.encode("ascii") + body


def _listen(place: EndpointUrl) -> socket.socket:
    host = "" if place.host == "*" else place.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, place.port))
        listening.listen(_BACKLOG)
    except OSError as wrong:
        listening.close()
        raise TransportError(f"metrics {place.host}:{place.port}: cannot listen there: {wrong.strerror}") from wrong
    return listening
