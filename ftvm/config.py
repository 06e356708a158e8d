"""Settings of a protection, each with unit, default and reason; checked once, when built. `Timing` is about suspicion
only: no safety rule depends on it (docs/protocol.md, "Suspicion"). `Limits` bounds every queue, frame and retry; the
staging bound is agreed with the peer in the handshake.
"""

from dataclasses import dataclass
from typing import Final

from ftvm.errors import ConfigError
from ftvm.units import Nanos

__all__ = ["HEARTBEATS_MIN", "Limits", "Timing"]

_MS: Final = 1_000_000

HEARTBEATS_MIN: Final = 4
"""A limit of silence has at least this many heartbeats, or a single late one looks like death."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """When silence becomes suspicion, in nanoseconds.

    The backup's limit is below the primary's: when the link between two live hosts fails, the backup asks the arbiter
    first, and the loser stays as it was.
    """

    heartbeat_ns: Nanos = Nanos(50 * _MS)
    primary_limit_ns: Nanos = Nanos(500 * _MS)
    backup_limit_ns: Nanos = Nanos(300 * _MS)
    join_interval_ns: Nanos = Nanos(100 * _MS)
    """How often an empty replica asks to join."""
    read_interval_ns: Nanos = Nanos(100 * _MS)
    """How long to wait before an arbiter request that failed, or a hint that was refuted, is tried again."""
    arbiter_poll_ns: Nanos = Nanos(1_000 * _MS)
    """How often a member reads the record although nothing hints at a change."""
    announce_count: int = 4
    announce_interval_ns: Nanos = Nanos(200 * _MS)

    def __post_init__(self) -> None:
        if self.heartbeat_ns <= 0:
            raise ConfigError("heartbeat must be more than 0 ns")
        for name in ("primary_limit_ns", "backup_limit_ns"):
            limit_ns = getattr(self, name)
            least_ns = HEARTBEATS_MIN * self.heartbeat_ns
            if limit_ns < least_ns:
                raise ConfigError(
                    f"{name} is {limit_ns} ns: it must be at least four heartbeats ({least_ns} ns), "
                    "or a single late heartbeat looks like death"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bound of everything that can grow. Passing one is a LimitExceeded, never silent growth."""

    batch_bytes: int = 1 << 20
    """Payload of one batch of encoded pages: 256 KiB to 4 MiB keep ZeroMQ efficient (bench/link.py)."""
    batches_in_flight: int = 8
    staging_bytes: int = 256 << 20
    """Encoded pages that a backup holds aside for one checkpoint."""
    epochs_in_flight: int = 2
    digests_per_message: int = 4_096
    """Pages whose digests one message offers, of 16 bytes each: 64 KiB, and 16 MiB of memory to look at in one step."""
    copy_rounds: int = 30
    copy_rest_pages: int = 256
    """The first copy stops iterating when at most this many pages are left for the pause."""
    devices_bytes: int = 16 << 20
    outputs_held: int = 65_536
    output_bytes: int = 1 << 20
    """One output."""
    outputs_held_bytes: int = 64 << 20
    """All outputs held: beyond it the guest is paused until a commit frees some."""
    log_records: int = 262_144
    """Log records that a backup keeps: those since its last checkpoint."""
    log_bytes: int = 64 << 20
    header_bytes: int = 64 << 10
    messages_per_step: int = 256
    inputs_per_step: int = 256

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"limit {name} must be more than 0")
        if not 1 << 16 <= self.batch_bytes <= 4 << 20:
            raise ConfigError("limit batch_bytes must be from 64 KiB to 4 MiB")
