"""Histograms of durations: buckets of powers of two of a millisecond, and percentiles within them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

# The upper bounds of the buckets. One more bucket has no bound; it begins at 70 minutes.
BOUNDS_MS = tuple(float(1 << n) for n in range(23))


def percentile_ms(buckets: Sequence[int], percent: float) -> float | None:
    """
    Return a percentile in milliseconds, interpolated within its bucket; None without durations.

    Empty buckets at the end may be missing. The last bucket counts as twice as wide as the one before it.
    """
    total = sum(buckets)
    if not total:
        return None
    rank = total * percent / 100
    for number, num in enumerate(buckets):
        if num and rank <= num:
            low, high = _bounds_ms(number)
            return low + (high - low) * max(rank, 0.0) / num
        rank -= num
    return _bounds_ms(len(buckets) - 1)[1]  # of a percent above 100, or a rounding error


def merged(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Return the sum of histograms, bucket by bucket."""
    return tuple(map(sum, zip_longest(*histograms, fillvalue=0)))


def _bounds_ms(number: int) -> tuple[float, float]:
    low = BOUNDS_MS[number - 1] if number else 0.0
    return low, BOUNDS_MS[number] if number < len(BOUNDS_MS) else 2 * low
