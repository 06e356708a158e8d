"""A pretended host: it notes what it is asked, and tells what a test says."""

from dataclasses import dataclass, replace

from ftvm.errors import LocalProtocolError, SwitchoverFailed
from ftvm.runtime.services import Pending
from ftvm.runtime.status import HISTOGRAM_BOUNDS_US, Histogram, Percentiles, Status
from ftvm.units import Nanos

SECOND = 1_000_000_000
_NONE = Histogram((0,) * (len(HISTOGRAM_BOUNDS_US) + 1), 0.0)

STATUS = Status(
    at=Nanos(10 * SECOND),
    guest_id="vm1",
    role="active",
    link="protected",
    replica_id="a1",
    generation=3,
    active="a1",
    standby="b1",
    engine="remus",
    interval_ms=25.0,
    engine_settings="interval 25 ms",
    epoch=17,
    epochs_in_flight=1,
    lag_ms=4.5,
    outputs_held=2,
    outputs_released=100,
    copy_pages_left=0,
    checkpoints=17,
    digests_compared=17,
    takeovers=0,
    pause_us=Percentiles(300.0, 900.0),
    output_delay_us=Percentiles(12_000.0, 30_000.0),
    pauses=_NONE,
    output_delays=_NONE,
    bytes_sent=1_000,
    bytes_raw=40_960,
    failure=None,
    state="protected",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterStatus(Status):
    """What a later release tells."""

    memory_bytes: int = 0


def histogram(*samples_us: float) -> Histogram:
    """Return the histogram of these samples."""
    counts = [0] * (len(HISTOGRAM_BOUNDS_US) + 1)
    for sample in samples_us:
        counts[next((i for i, bound in enumerate(HISTOGRAM_BOUNDS_US) if sample <= bound), len(counts) - 1)] += 1
    return Histogram(tuple(counts), float(sum(samples_us)))


class FakeHost:
    """Keeps runtime.attend.Controls."""

    def __init__(self, status: Status = STATUS) -> None:
        self.now = status
        self.asked: list[str] = []
        self.is_switched_over = False
        self.switchover_error: str | None = None

    @property
    def guest_id(self) -> str:
        return self.now.guest_id

    def status(self) -> Status:
        return self.now

    def set_engine(
        self, *, name: str | None, interval: float | None, latency: float | None, group: float | None
    ) -> Pending:
        self.asked.append(f"engine {name} {interval} {latency} {group}")
        return lambda: True

    def switch_over(self, limit_ns: Nanos) -> Pending:
        self.asked.append(f"switchover within {limit_ns} ns")
        if self.now.standby is None:
            raise LocalProtocolError("there is no standby")

        def is_done() -> bool:
            if self.switchover_error is not None:
                raise SwitchoverFailed(self.switchover_error)
            return self.is_switched_over

        return is_done

    def end_guest(self, reason: str) -> None:
        self.asked.append(f"end: {reason}")

    def ask_to_stop(self, reason: str) -> None:
        self.asked.append(f"stop: {reason}")

    def change(self, **fields: object) -> None:
        self.now = replace(self.now, **fields)  # type: ignore[arg-type]
