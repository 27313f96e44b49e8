"""Claims about the numbers that a client counts."""

from __future__ import annotations

import pytest

from millhand.engine.client_metrics import NAMES_MAX, OTHER, Histogram, Names


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (-1.0, 0),
        (0.0, 0),
        (0.001, 0),
        (0.0011, 1),
        (0.0025, 1),
        (1.0, 9),
        (3600.0, 17),
        (3600.1, 18),
        (1e12, 18),
    ],
)
def test_duration_is_counted_in_the_bucket_that_ends_at_or_above_it(seconds: float, bucket: int) -> None:
    """A bucket includes its bound, as `le` says; the last one has no bound, and a negative duration is in the first."""
    histogram = Histogram()

    histogram.add([seconds])

    assert [place for place, num in enumerate(histogram.counts) if num] == [bucket]


def test_sum_of_a_histogram_never_decreases() -> None:
    """A batch whose durations add up to less than 0, because two clocks differ, leaves the sum as it was."""
    histogram = Histogram()

    histogram.add([2.0, -0.5])
    histogram.add([-3.0])

    assert histogram.total == 1.5


def test_names_beyond_the_limit_are_one_label() -> None:
    """The first hundred names keep theirs, also when they come again; every later one is `_OTHER`."""
    names = Names()

    first = [names.capped("shop", str(number)) for number in range(NAMES_MAX)]

    assert first == [("shop", str(number)) for number in range(NAMES_MAX)]
    assert names.capped("shop", "later") == (OTHER, OTHER)
    assert names.capped("shop", "7") == ("shop", "7")
