"""What is made of the lines that hosts and clients print."""

from typing import Any

import pytest
from enginewindow import Heard, client_line, window_of
from figures import bucket_of

MILLI = 1_000_000
SECOND = 1000 * MILLI


def host_line(at: int, outputs: int, **more: Any) -> dict[str, Any]:
    delays = {str(bucket_of(2 * MILLI)): outputs}
    line = {"at": at, "retired": 1000 * outputs, "cpu_ns": at // 2, "memory_bytes": 5 << 20}
    host = {"link": "protected", "checkpoints": outputs // 2, "bytes_sent": 100 * outputs, "pauses": {}}
    return line | {"delays": delays, "outputs": outputs, "host": host} | more


def asked(at: int, answered: int, repeated: int | None = 0) -> dict[str, Any]:
    latencies = {str(bucket_of(MILLI)): answered}
    return {"at": at, "answered": answered, "repeated": repeated, "latencies": latencies}


ACTIVE = [host_line(0, 100), host_line(SECOND, 300)]
STANDBY = [host_line(0, 0), host_line(SECOND, 0, cpu_ns=SECOND // 10, memory_bytes=3 << 20)]


def test_rates_are_of_the_window_and_not_of_what_came_before_it() -> None:
    window = window_of("lines", ACTIVE, STANDBY, [])

    assert (window.work, window.outputs) == (200, 200)
    assert (window.checkpoints_per_second, window.bytes_per_second) == (100, 20_000)
    assert window.delay_us_p50 == pytest.approx(2000, rel=0.03)


def test_the_processor_s_time_is_shared_among_the_outputs_of_both_hosts() -> None:
    window = window_of("none", ACTIVE, STANDBY, [])

    assert window.work is None
    assert (window.cpu, window.standby_cpu) == (0.5, 0.1)
    assert (window.cpu_us, window.standby_cpu_us) == (2500, 500)
    assert (window.memory_bytes, window.standby_memory_bytes) == (5 << 20, 3 << 20)


def test_a_guest_alone_has_no_standby_no_pause_and_no_checkpoint() -> None:
    alone = [{name: value for name, value in line.items() if name != "host"} for line in ACTIVE]

    window = window_of("lines", alone, [], [])

    assert (window.standby_cpu, window.standby_cpu_us, window.standby_memory_bytes) == (None, None, None)
    assert (window.pause_us_p50, window.checkpoints_per_second, window.bytes_per_second) == (None, None, None)


def test_instructions_are_counted_by_the_second_of_the_host_s_processor() -> None:
    assert window_of("instructions", ACTIVE, [], []).work == 400_000


def test_repetitions_are_counted_for_each_answer() -> None:
    window = window_of("requests", ACTIVE, [], [asked(0, 10, 5), asked(SECOND, 30, 15)])

    assert (window.work, window.repeated) == (20, 0.5)
    assert window.latency_us_p50 == pytest.approx(1000, rel=0.03)


def test_requests_that_are_never_answered_show_as_repetitions() -> None:
    assert window_of("requests", ACTIVE, [], [asked(0, 10, 5), asked(SECOND, 10, 15)]).repeated == 10


def test_the_lab_s_client_is_understood_and_counts_no_repetitions() -> None:
    told = client_line({"status": {"at": 7, "requests_acknowledged": 3, "more": "words"}})

    assert told == {"at": 7, "answered": 3, "repeated": None, "latencies": {}}
    assert client_line({"verdict": {}}) is None
    assert window_of("requests", ACTIVE, [], [told, told | {"at": SECOND, "answered": 5}]).repeated is None


def test_what_a_host_says_is_told_apart() -> None:
    heard = Heard()
    take = heard.on_host("b")

    take(host_line(1, 2))
    take({"event": "Protected", "at": 5, "standby": "x"})
    take({"takeover_ns": 3, "detection_ns": 2, "running_at": 9})

    assert len(heard.lines["b"]) == 1
    assert [event["event"] for event in heard.events["b"]] == ["Protected"]
    assert heard.told["running_at"] == 9
    assert heard.lines["a"] == []
