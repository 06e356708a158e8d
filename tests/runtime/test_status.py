"""What a host tells about itself."""

import json

import pytest

from ftvm.events import Committed, GuestWarned, Halted, HistoryGap, SessionEnded, Solo, TookOver
from ftvm.runtime.status import HISTOGRAM_BOUNDS_US, Counters, Percentiles, percentiles
from ftvm.units import Nanos


@pytest.mark.parametrize(
    ("samples", "p50", "p99"), [([], 0, 0), ([7], 7, 7), ([3, 1, 2], 2, 3), (list(range(100)), 50, 99)]
)
def test_percentiles_are_samples(samples: list[float], p50: float, p99: float) -> None:
    assert percentiles(samples) == Percentiles(p50, p99)


def test_counters_add_up_what_happened() -> None:
    counters = Counters()
    at = Nanos(0)
    commit = Committed(at=at, guest_id="vm", epoch=1, dirty_pages=3, sent_bytes=100, pause_ns=5000)

    counters.count(commit)
    counters.count(commit)
    counters.count(Solo(at=at, guest_id="vm", generation=1, reason="x"))
    counters.count(
        TookOver(
            at=at,
            guest_id="vm",
            generation=1,
            epoch=1,
            detection_ns=1,
            arbiter_ns=1,
            load_ns=1,
            outputs_emitted_again=0,
        )
    )

    assert (counters.checkpoints, counters.takeovers, counters.bytes_sent) == (2, 1, 200)
    assert counters.bytes_raw == 2 * 3 * 4096
    assert list(counters.pauses_us) == [5.0, 5.0]
    assert json.dumps(list(counters.pauses_us))


@pytest.mark.parametrize("kind", [Halted, SessionEnded])
def test_why_a_standby_is_gone_is_kept_also_while_its_session_is(kind: type[Halted | SessionEnded]) -> None:
    """Regression: a guest that waited for its silent standby said that none had joined."""
    counters = Counters()

    counters.count(kind(at=Nanos(0), guest_id="vm", reason="the standby was silent for 700 ms"))

    assert counters.reasons.lost == "its standby is gone: the standby was silent for 700 ms"


def test_warnings_are_kept_each_once_and_the_latest_last() -> None:
    counters = Counters()

    for number in (*range(9), 3):
        counters.count(GuestWarned(at=Nanos(0), guest_id="vm", reason=f"warning {number}"))
    counters.count(HistoryGap(at=Nanos(0), guest_id="vm", reason="no space left on device"))

    told = [f"warning {number}" for number in (2, 4, 5, 6, 7, 8, 3)]
    assert list(counters.warnings) == [*told, "a gap in the history: no space left on device"]


def test_an_output_whose_time_is_not_known_counts_from_when_it_was_taken() -> None:
    counters = Counters()

    counters.released(3, [(1, Nanos(5_000))], Nanos(2_000), Nanos(10_000))

    assert counters.outputs_released == 3
    assert list(counters.output_delays_us) == [5.0, 8.0, 8.0]


def test_a_histogram_counts_each_sample_once_at_its_bound() -> None:
    counters = Counters()

    delays_ns = (10_000, 10_100, 499_999_000, 500_000_000, 500_001_000)
    counters.released(5, [(1, Nanos(-delay_ns)) for delay_ns in delays_ns], Nanos(0), Nanos(0))

    counts = counters.output_delays.seen().counts
    assert (counts[0], counts[1], counts[-2], counts[-1], sum(counts)) == (1, 1, 2, 1, 5)
    assert counters.output_delays.seen().sum_us == pytest.approx(1_500_020.1)
    assert HISTOGRAM_BOUNDS_US[:4] == (10, 20, 50, 100)
