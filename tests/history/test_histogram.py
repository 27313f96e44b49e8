"""Percentiles of histograms: exact at bounds, in order, and never outside of their bucket."""

from __future__ import annotations

import bisect
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millhand.history.histogram import BOUNDS_MS, merged, percentile_ms

HISTOGRAMS = st.lists(st.integers(0, 50), max_size=len(BOUNDS_MS) + 1)


@pytest.mark.parametrize(
    ("buckets", "percent", "ms"),
    [
        ((), 50, None),
        ((0, 0), 50, None),
        ((4,), 50, 0.5),  # half of the bucket below 1 ms
        ((4,), 100, 1.0),
        ((0, 4), 50, 1.5),
        ((0, 0, 4), 25, 2.5),
        ((1, 0, 1), 50, 1.0),
        ((1, 0, 1), 100, 4.0),
        ((0,) * 23 + (2,), 50, 1.5 * 2**22),  # the last bucket counts as twice as wide as the one before
    ],
)
def test_percentile_is_interpolated_within_its_bucket(
    buckets: tuple[int, ...], percent: float, ms: float | None
) -> None:
    """Durations count as evenly spread over their bucket."""
    assert percentile_ms(buckets, percent) == ms


@given(st.lists(st.floats(0.001, 8_000_000), min_size=1, max_size=60), st.sampled_from([1, 50, 95, 99, 100]))
def test_percentile_lies_in_the_bucket_of_the_true_one(durations: list[float], percent: float) -> None:
    """The percentile of any durations has an error of less than their bucket."""
    buckets = [0] * (len(BOUNDS_MS) + 1)
    for ms in durations:
        buckets[bisect.bisect_right(BOUNDS_MS, ms)] += 1
    true = sorted(durations)[math.ceil(len(durations) * percent / 100) - 1]

    place = bisect.bisect_right(BOUNDS_MS, true)
    low = BOUNDS_MS[place - 1] if place else 0.0
    high = BOUNDS_MS[place] if place < len(BOUNDS_MS) else 2 * low

    got = percentile_ms(buckets, percent)
    assert got is not None
    assert low <= got <= high


@given(HISTOGRAMS)
def test_percentiles_grow_with_the_percent(buckets: list[int]) -> None:
    """A higher percentile is never lower."""
    values = [percentile_ms(buckets, percent) or 0.0 for percent in range(0, 101, 5)]

    assert values == sorted(values)


@pytest.mark.slow
@given(st.lists(HISTOGRAMS, max_size=5))
def test_sum_of_histograms_has_all_their_durations(histograms: list[list[int]]) -> None:
    """The sum of histograms of any lengths loses none."""
    assert sum(merged(histograms)) == sum(map(sum, histograms))
