"""Each figure of the engines stands beside its limit or its peer, and each goal is where the design has it."""

from dataclasses import replace

from bare import Bare
from enginerows import Failed, Result, alone_rows, bare_rows, load_row, move_rows, replay_row, rows_of, summary_rows
from enginerun import EngineCase, Figures, Link, Load, Moves, Replay
from enginewindow import Window

BARE = Bare(tcp_us=30, zeromq_us=145, curve_us=150, link_rate=4e8, echo_rates={1: 10_000, 16: 40_000})
WINDOW = Window(
    work=1000.0,
    outputs=500,
    delay_us_p50=240,
    delay_us_p99=900,
    latency_us_p50=400,
    latency_us_p99=1000,
    repeated=0.0,
    cpu=0.5,
    cpu_us=100,
    standby_cpu=0.2,
    standby_cpu_us=50,
    pause_us_p50=30,
    pause_us_p99=90,
    bytes_per_second=1e5,
    checkpoints_per_second=2600,
    memory_bytes=50 << 20,
    standby_memory_bytes=40 << 20,
)
FIGURES = Figures(solo=WINDOW, protected=WINDOW, takeover_ms=5, detection_ms=20, killed_ms=30)
MOVES = Moves(
    switch_ms=[5, 9],
    loser_ms=20,
    unprotected_ms=500,
    fresh_ms=80,
    loser_bytes=1_500_000,
    offered_bytes=4_200_000,
    fresh_bytes=800_000_000,
)
KV = Load(name="kv, 1 client", program="kv", counts="requests", clients=1)
CROWD = replace(KV, name="kv, 16 clients", clients=16)
CONSOLE = Load(name="console", program="console", counts="lines")
KEMARI = EngineCase(name="kemari", engine="kemari")
HYBRID = EngineCase(name="hybrid", engine="hybrid")


def result(load: Load, case: EngineCase, link: Link | None = None, **more: object) -> Result:
    known = {"load": load, "case": case, "link": link or Link(), "found": FIGURES, "alone": WINDOW}
    return Result(**(known | more))  # type: ignore[arg-type]


def goals(of: Result) -> dict[str, str]:
    return {row.name.rpartition(": ")[2]: row.goal for row in rows_of(of, BARE) if row.goal is not None}


def test_every_figure_has_its_limit_or_its_peer_beside_it() -> None:
    beside = result(CONSOLE, KEMARI, beside="v0.1.0", before=FIGURES, before_alone=WINDOW)
    rows = [*rows_of(result(CROWD, HYBRID), BARE), *rows_of(beside, BARE), *summary_rows([result(CROWD, KEMARI)], BARE)]
    rows += alone_rows(CROWD, WINDOW, "v0.1.0", WINDOW, BARE)
    rows += move_rows(CROWD, HYBRID, MOVES, BARE)
    rows += [replay_row(CROWD, Replay(live_seconds=1, replay_seconds=1, records=5)), load_row(1.0, 2.0, "said")]

    assert [row.name for row in rows if not row.peer or row.ratio is None] == []


def test_output_delays_are_counted_in_round_trips_of_c_and_of_the_link() -> None:
    near, far = (rows_of(result(KV, HYBRID, link), BARE) for link in (Link(), Link(name="4 ms", delay_ms=4)))

    delays = [next(row for row in rows if row.name.endswith("output delay p50")) for rows in (near, far)]
    assert [row.ratio for row in delays] == [8, 240 / 8030]
    assert [row.goal for row in delays] == ["<= 10", None]


def test_the_goals_are_where_the_design_has_them() -> None:
    assert goals(result(KV, KEMARI))["output delay p50"] == "<= 8"
    assert goals(result(KV, KEMARI))["output delay p99"] == "<= 30"
    assert goals(result(KV, HYBRID))["output delay p99"] == "<= 40"
    assert goals(result(CROWD, HYBRID))["throughput"] == ">= 0.6"
    assert "output delay p50" not in goals(result(CROWD, HYBRID))
    assert goals(result(CONSOLE, KEMARI))["checkpoints"] == ">= 1.0"
    assert goals(result(CROWD, HYBRID, Link(name="4 ms", delay_ms=4))) == {
        "output delay p50, far away": "<= 1.0",
        "output delay p99, far away": "<= 1.0",
    }


def test_what_a_crowd_can_reach_is_counted_from_how_long_each_client_waits() -> None:
    adaptive = EngineCase(name="remus, 5 ms", engine="remus", latency_ms=5)

    (remus,) = [row for row in rows_of(result(CROWD, adaptive), BARE) if row.name.endswith("of its bound")]
    (hybrid,) = [row for row in rows_of(result(CROWD, HYBRID), BARE) if row.name.endswith("of its bound")]

    assert remus.peer_value == 3_200
    assert remus.goal == ">= 0.6"
    assert "throughput" not in goals(result(CROWD, adaptive))
    assert hybrid.peer_value == 16 / (16 / 1000 + 150 / 1e6)
    assert hybrid.goal is None
    assert not [row for row in rows_of(result(KV, adaptive), BARE) if row.name.endswith("of its bound")]


def test_far_away_an_output_may_wait_for_the_round_trip_and_three_milliseconds() -> None:
    far = rows_of(result(CROWD, KEMARI, Link(name="40 ms", delay_ms=40)), BARE)

    (row,) = [row for row in far if row.name.endswith("output delay p50, far away")]
    assert row.peer_value == 83_000
    assert not [row for row in rows_of(result(CROWD, KEMARI), BARE) if "far away" in row.name]


def test_an_ftvm_of_before_stands_beside_each_figure_that_it_has_too() -> None:
    slow = replace(FIGURES, protected=replace(WINDOW, checkpoints_per_second=260, delay_us_p50=2400))

    rows = {row.name: row for row in rows_of(result(CONSOLE, KEMARI, beside="v0.1.0", before=slow), BARE)}

    assert rows["console, direct: kemari: checkpoints, beside"].ratio == 10
    assert rows["console, direct: kemari: checkpoints, beside"].met
    assert rows["console, direct: kemari: output delay p50, beside"].ratio == 0.1


def test_what_failed_is_a_row_that_says_why() -> None:
    wrong = Failed(reason="the guest ended")
    rows = [
        *rows_of(result(KV, HYBRID, found=wrong), BARE),
        *alone_rows(KV, wrong, "", None, BARE),
        *move_rows(KV, HYBRID, wrong, BARE),
        replay_row(KV, wrong),
        rows_of(result(KV, HYBRID, beside="v0.1.0", before=wrong), BARE)[-1],
    ]

    assert [(row.value, row.note) for row in rows] == [(None, "not measured: the guest ended")] * 5


def test_without_a_c_compiler_delays_are_counted_in_zeromq_and_the_reason_is_told() -> None:
    bare = replace(BARE, tcp_us=None, echo_rates={}, trouble="no C compiler: cc was not found")

    delay = next(row for row in rows_of(result(KV, HYBRID), bare) if row.name.endswith("delay p50"))

    assert delay.peer_value == 145
    assert "no C compiler" in delay.peer
    assert "no C compiler" in bare_rows(bare)[0].note


def test_the_rate_that_kemari_must_reach_goes_by_the_round_trip_of_this_machine() -> None:
    row = summary_rows([result(CROWD, KEMARI)], replace(BARE, zeromq_us=290))[-1]

    assert row.peer_value == 1250
    assert row.met is False


def test_grouped_kemari_has_a_rate_of_its_design_and_none_of_the_goals_of_the_strict_one() -> None:
    grouped = EngineCase(name="kemari, grouped", engine="kemari", group_ms=0.2)
    row = summary_rows([result(CROWD, grouped)], replace(BARE, zeromq_us=290))[-1]

    assert row.peer_value == 10_000
    assert row.met is False
    assert {"output delay p50", "pause p50"}.isdisjoint(goals(result(KV, grouped)))
    assert "checkpoints" not in goals(result(CONSOLE, grouped))


def test_takeovers_of_all_runs_are_counted_together_and_those_far_away_are_not() -> None:
    slow = replace(FIGURES, takeover_ms=40)
    rows = summary_rows(
        [
            result(KV, HYBRID),
            result(KV, HYBRID, found=slow),
            result(KV, HYBRID, Link(name="40 ms", delay_ms=40), found=replace(FIGURES, takeover_ms=900)),
            result(KV, HYBRID, found=Failed(reason="it did not start")),
        ],
        BARE,
    )

    assert [(row.value, row.note) for row in rows] == [(5, "of 2 takeovers"), (40, "of 2 takeovers")]


def test_the_time_unprotected_stands_beside_what_was_shipped_for_it() -> None:
    notes = {row.name.rpartition(", ")[2]: row.note for row in move_rows(CROWD, HYBRID, MOVES, BARE)}

    assert "1.5 MB shipped for it, 4.2 MB of digests back" in notes["a live loser returns"]
    assert notes["a fresh host joins"] == "800.0 MB shipped for it"
