"""
Counters, histograms and names of labels: the plain numbers that a client counts.

Concurrency: one event loop adds, and any thread may read. Nothing is locked: a reader takes copies, and each copy is one
operation of the interpreter. The buckets of a histogram may then be a job ahead of its total.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

from millhand.core.metrics.definitions import BOUNDS

# The label of everything beyond the limit. Tables may name any number of queues and kinds, and a page must stay small.
OTHER = "_OTHER"
NAMES_MAX = 100

_bucket = partial(bisect_left, BOUNDS)


class Histogram:
    """Counts durations by bucket, and their sum in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, durations: Sequence[float]) -> None:
        counts = self.counts
        for bucket, num in Counter(map(_bucket, durations)).items():  # counts in C
            counts[bucket] += num
        self.total += max(
            sum(durations), 0.0
        )  # of two clocks, a duration may be below 0; the sum must not decrease


class Names:
    """The `reserved` names, and the first `NAMES_MAX` others that were seen; every later one is `OTHER`."""

    __slots__ = ("_num_max", "_seen")

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._seen: set[tuple[str, ...]] = {(name,) for name in reserved}
        self._num_max = len(self._seen) + NAMES_MAX

    def capped(self, *name: str) -> tuple[str, ...]:
        """Return the name, or `OTHER` in each of its places."""
        if name not in self._seen:
            if len(self._seen) >= self._num_max:
                return (OTHER,) * len(name)
            self._seen.add(name)
        return name
