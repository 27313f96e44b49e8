"""Points: the values of metrics at one moment, as they are exposed, sent between processes, and merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import msgspec

from millhand.core.metrics.definitions import BOUNDS, Metric


class Durations(msgspec.Struct, frozen=True, array_like=True):
    """A histogram's value: the number in each bucket, and the sum in seconds."""

    counts: list[int]
    total: float

    @property
    def num(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, int]]:
        """Return the buckets as Prometheus wants them: each with its bound, and with all that is below it."""
        bounds = [*(repr(bound) for bound in BOUNDS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One value, with the values of the metric's labels."""

    labels: tuple[str, ...]
    value: float | Durations


class Points(msgspec.Struct, frozen=True, array_like=True):
    """All points of one metric."""

    metric: Metric
    points: list[Point]


def numbers(metric: Metric, values: Mapping[tuple[str, ...], float]) -> Points:
    """Return the points of a counter or gauge from its values by labels."""
    return Points(metric, [Point(labels, float(value)) for labels, value in list(values.items())])


def number(metric: Metric, value: float, *labels: str) -> Points:
    """Return the points of a metric with one point."""
    return Points(metric, [Point(labels, float(value))])


def of_processes(pages: Mapping[str, Sequence[Points]]) -> list[Points]:
    """Return the points of several processes as one page, with the label `process` before the others."""
    return _merged("process", pages)


def of_databases(pages: Mapping[str, Sequence[Points]]) -> list[Points]:
    """Return the points of several databases as one page, with the label `database` before the others."""
    return _merged("database", pages)


def _merged(label: str, pages: Mapping[str, Sequence[Points]]) -> list[Points]:
    merged: dict[str, Points] = {}
    for name, page in pages.items():
        for one in page:
            metric = msgspec.structs.replace(one.metric, labels=(label, *one.metric.labels))
            points = merged.setdefault(metric.name, Points(metric, [])).points
            points += [Point((name, *point.labels), point.value) for point in one.points]
    return list(merged.values())


def encode_points(page: Iterable[Points]) -> bytes:
    return msgspec.msgpack.encode(list(page))


def decode_points(text: bytes) -> list[Points]:
    """Return what another process encoded. Raises: msgspec.DecodeError."""
    return msgspec.msgpack.decode(text, type=list[Points])
