"""Where one guest on one host stands, from its replica and its counters."""

from ftvm.errors import FtvmError
from ftvm.protocol.active import Active
from ftvm.protocol.core import Settings
from ftvm.protocol.pace import interval_ms_of
from ftvm.protocol.replica import Replica
from ftvm.protocol.standby import Standby
from ftvm.runtime.capture import Capturer
from ftvm.runtime.status import HALTED, Counters, Status, percentiles
from ftvm.units import Nanos, nanos_to_millis

__all__ = ["describe"]


def describe(
    settings: Settings, replica: Replica, counters: Counters, capturer: Capturer, failure: FtvmError | None, now: Nanos
) -> Status:
    """Return the status of a host with this replica."""
    steps, known = replica.steps, replica.core.desk.known
    active = steps if isinstance(steps, Active) else None
    session = active.session if active is not None else None
    engine = active.pace.engine.name if active else steps.committed.engine if isinstance(steps, Standby) else ""
    epoch = active.epoch if active else steps.committed.epoch or 0 if isinstance(steps, Standby) else 0
    in_flight = session.in_flight if session is not None else ()
    return Status(
        at=now,
        guest_id=settings.guest_id,
        role=replica.role.value,
        link=(HALTED if active.is_halted else active.link.value) if active is not None else "",
        replica_id=replica.core.id,
        generation=known.generation,
        active=known.active,
        standby=known.standby,
        engine=engine or settings.engine.name,
        interval_ms=interval_ms_of(active.pace.engine) if active is not None else None,
        epoch=epoch,
        epochs_in_flight=len(in_flight),
        lag_ms=nanos_to_millis(now - in_flight[0].cut_at) if in_flight else 0.0,
        outputs_held=len(active.gate.held) if active is not None else 0,
        outputs_released=counters.outputs_released,
        copy_pages_left=active.plan.left if active is not None and active.plan is not None else 0,
        checkpoints=counters.checkpoints,
        digests_compared=counters.digests_compared,
        takeovers=counters.takeovers,
        pause_us=percentiles(counters.pauses_us),
        output_delay_us=percentiles(counters.output_delays_us),
        pauses=counters.pauses.seen(),
        output_delays=counters.output_delays.seen(),
        bytes_sent=counters.bytes_sent,
        bytes_raw=counters.bytes_raw,
        failure=str(failure) if failure is not None else None,
        guest_bytes=capturer.guest_bytes,
        shadow_bytes=capturer.shadow_bytes,
        staging_bytes=capturer.staging_bytes + (steps.staging.size_bytes if isinstance(steps, Standby) else 0),
    )
