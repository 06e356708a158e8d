"""What `ftvm top` shows: rates by the host's own clock, and bars that never hide a sample."""

from dataclasses import replace

from ftvm.service.view import bars, look
from ftvm.units import Nanos

from .fakes import SECOND, STATUS, histogram


def test_rates_are_differences_over_the_hosts_own_time() -> None:
    later = replace(
        STATUS,
        at=Nanos(STATUS.at + 2 * SECOND),
        bytes_raw=STATUS.bytes_raw + 20 * 4096,
        bytes_sent=STATUS.bytes_sent + 3000,
        checkpoints=STATUS.checkpoints + 80,
        outputs_released=STATUS.outputs_released + 10,
        pauses=histogram(15, 15),
    )

    seen = look(later, STATUS)

    assert (seen.seconds, seen.dirty_pages, seen.link_bytes) == (2.0, 10.0, 1500.0)
    assert (seen.checkpoints, seen.outputs) == (40.0, 5.0)
    assert seen.pauses[1] == 2
    assert seen.as_dict()["rates"]["dirty_pages_per_second"] == 10.0


def test_samples_before_the_last_look_are_not_shown_again() -> None:
    before = replace(STATUS, pauses=histogram(15, 300))
    later = replace(STATUS, at=Nanos(STATUS.at + SECOND), pauses=histogram(15, 300, 300))

    assert sum(look(later, before).pauses) == 1


def test_the_first_look_has_no_rates_and_all_samples() -> None:
    seen = look(replace(STATUS, pauses=histogram(15)), None)

    assert (seen.seconds, seen.link_bytes, sum(seen.pauses)) == (0.0, 0.0, 1)


def test_another_process_in_the_same_place_starts_afresh() -> None:
    restarted = replace(STATUS, replica_id="c1", at=Nanos(STATUS.at + SECOND), bytes_sent=0)

    assert look(restarted, STATUS).link_bytes == 0.0


def test_bars_show_every_sample_and_nothing_where_there_is_none() -> None:
    assert bars((0, 1, 500, 1000)) == " ▁▄█"
    assert bars((0, 0)) == "  "
