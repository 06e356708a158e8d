"""The status of one guest on one host, from the view of its replica and its counters."""

from ftvm.errors import FtvmError
from ftvm.protocol.core import Settings
from ftvm.protocol.view import View
from ftvm.runtime.capture import Capturer
from ftvm.runtime.standing import Standing, arbiter_trouble
from ftvm.runtime.status import HALTED, Counters, Status, percentiles
from ftvm.units import Nanos, nanos_to_millis, nanos_to_seconds

__all__ = ["describe"]


def describe(
    settings: Settings,
    view: View,
    standing: Standing,
    counters: Counters,
    capturer: Capturer,
    failure: FtvmError | None,
    now: Nanos,
) -> Status:
    """Return the status of a host whose replica looks like this; who it is, and the time of day, is the node's part."""
    active, standby, known = view.active, view.standby, view.record
    session = active.session if active is not None else None
    engine = active.engine.name if active else standby.engine if standby else ""
    epoch = active.epoch if active else standby.epoch or 0 if standby else 0
    in_flight = session.in_flight if session is not None else ()
    return Status(
        at=now,
        guest_id=settings.guest_id,
        role=view.role.value,
        link=(HALTED if active.is_halted else active.link.value) if active is not None else "",
        replica_id=view.id,
        generation=known.generation,
        active=known.active,
        standby=known.standby,
        engine=engine or settings.engine.name,
        interval_ms=active.interval_ms if active is not None else None,
        engine_settings=active.engine_settings if active is not None else "",
        epoch=epoch,
        epochs_in_flight=len(in_flight),
        lag_ms=nanos_to_millis(now - in_flight[0].cut_at) if in_flight else 0.0,
        outputs_held=active.held_count if active is not None else 0,
        outputs_released=counters.outputs_released,
        copy_pages_left=active.copy_pages_left if active is not None else 0,
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
        state=standing.state.value,
        reason=standing.reason,
        state_seconds=nanos_to_seconds(now - standing.since),
        copy_pages_sent=active.copy_pages_sent if active else standby.copied_pages if standby else 0,
        copy_round=active.copy_round if active is not None else 0,
        elsewhere=view.elsewhere,
        warnings=tuple(counters.warnings),
        arbiter_error=arbiter_trouble(view, now),
        silence_ms=nanos_to_millis(_configured_silence_ns(settings, view)),
        silence_limit_ms=nanos_to_millis(session.limit_ns if session else standby.limit_ns if standby else 0),
        staging_bytes=capturer.staging_bytes + (standby.staged_bytes if standby is not None else 0),
    )


def _configured_silence_ns(settings: Settings, view: View) -> int:
    if view.peer is None:
        return 0
    return settings.timing.backup_limit_ns if view.standby is not None else settings.timing.primary_limit_ns
