"""The statistics of the benchmarks, against the same made the long way."""

import pytest
import stopwatch
from figures import Histogram, best_rate, between, bucket_of, mean_rate, middle_of, per, percentile, rank
from hypothesis import given
from hypothesis import strategies as st

TIMES = st.integers(256, 10**12)


def told(times: list[int]) -> dict[str, int]:
    histogram = Histogram()
    for time in times:
        histogram.add(time)
    return histogram.told()


@given(TIMES)
def test_a_bucket_knows_a_time_to_four_in_a_thousand(nanos: int) -> None:
    assert abs(middle_of(bucket_of(nanos)) - nanos) <= nanos * 0.004


@given(TIMES, TIMES)
def test_a_longer_time_is_in_no_earlier_bucket(one: int, other: int) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


def test_what_is_shorter_than_the_first_bucket_is_counted_there() -> None:
    assert {bucket_of(nanos) for nanos in (-5, 0, 1, 256)} == {bucket_of(256)}


@given(st.lists(TIMES, min_size=1, max_size=300), st.sampled_from([1, 50, 90, 99, 100]))
def test_a_percentile_of_a_histogram_is_that_of_its_times(times: list[int], percent: int) -> None:
    found = percentile(between({}, told(times)), percent)

    exact = rank(times, percent)
    assert found == middle_of(bucket_of(int(exact or 0)))


@given(st.lists(TIMES), st.lists(TIMES))
def test_a_window_holds_what_came_between_two_tellings(before: list[int], later: list[int]) -> None:
    window = between(told(before), told(before + later))

    assert window == between({}, told(later))


def test_histograms_that_shrink_are_refused() -> None:
    with pytest.raises(ValueError, match="only grows"):
        between(told([100, 100]), told([100]))
    with pytest.raises(ValueError, match="only grows"):
        between(told([100]), {})


def test_of_nothing_there_is_no_percentile_no_rank_no_rate_and_no_share() -> None:
    assert percentile({}, 50) is None
    assert rank([], 50) is None
    assert best_rate([]) is None
    assert best_rate([(5, 1)]) is None
    assert mean_rate([(5, 1), (5, 2)]) is None
    assert per(10.0, 0) is None


def test_ranks_are_the_nearest() -> None:
    values = [float(value) for value in range(1, 101)]

    assert [rank(values, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]


def test_the_best_rate_is_that_of_the_fastest_tenth() -> None:
    second = 1_000_000_000
    samples, count = [(0, 0)], 0
    for at, step in enumerate([10] * 9 + [100] + [1000], start=1):  # one slice is a fluke, one is the fastest tenth
        count += step
        samples.append((at * second, count))

    assert best_rate(samples) == 100
    assert mean_rate(samples) == pytest.approx(1190 / 11)


def test_a_stopwatch_times_what_leaves_together_as_what_leaves_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "monotonic_ns", lambda: 5_000)
    alone, together = stopwatch.Stopwatch(), stopwatch.Stopwatch()
    for watch in (alone, together):
        watch.emitted_together(1, 4, 0)
        watch.emitted_together(4, 4, 0)
        watch.emitted_together(4, 6, 0)

    for number in (2, 3, 4, 5):
        alone.released(number)
    together.released(2)
    together.released(5, 3)

    assert alone.delays.told() == together.delays.told()
    assert sum(alone.delays.told().values()) == alone.left == together.left == 4
