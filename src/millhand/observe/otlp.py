"""Points as OpenTelemetry's metrics, for its exporters; needs `opentelemetry-sdk`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from millhand.core.metrics.definitions import BOUNDS, MetricType
from millhand.core.metrics.points import Durations, Points
from millhand.version import VERSION

SECONDS_SUFFIXES = ("_seconds", "_seconds_total")
# Optional in the protocol, though the SDK's class has them without a default.
UNKNOWN: Any = None


class PointsReader(PeriodicExportingMetricReader):
    """
    Exports what `read` returns, in a thread of its own, once a minute or as OTEL_METRIC_EXPORT_INTERVAL says.

    It needs no MeterProvider: the SDK has no instrument for a histogram that was counted elsewhere.
    """

    def __init__(
        self,
        read: Callable[[], Sequence[Points]],
        exporter: MetricExporter,
        *,
        interval_seconds: float | None,
        resource: Resource,
    ) -> None:
        super().__init__(exporter, None if interval_seconds is None else interval_seconds * 1_000)
        self._read = read
        self._resource = resource
        self._started_ns = time.time_ns()
        self._set_collect_callback(self._read_points)

    def _read_points(self, *_: object, **__: object) -> MetricsData:
        return metrics_data(self._read(), self._resource, started_ns=self._started_ns, now_ns=time.time_ns())


def metrics_data(page: Iterable[Points], resource: Resource, *, started_ns: int, now_ns: int) -> MetricsData:
    """Return points as the SDK exports them; counters and histograms are cumulative."""
    metrics = [
        Metric(
            points.metric.name,
            points.metric.help,
            "s" if points.metric.name.endswith(SECONDS_SUFFIXES) else "",
            _data(points, started_ns, now_ns),
        )
        for points in page
        if points.points
    ]
    scope = ScopeMetrics(InstrumentationScope("millhand", VERSION), metrics, schema_url="")
    return MetricsData([ResourceMetrics(resource, [scope], schema_url="")])


def _data(points: Points, started_ns: int, now_ns: int) -> Sum | Gauge | Histogram:
    labels, found = points.metric.labels, points.points
    if points.metric.type is MetricType.HISTOGRAM:
        return Histogram(
            [
                _histogram(dict(zip(labels, one.labels, strict=True)), one.value, started_ns, now_ns)
                for one in found
                if isinstance(one.value, Durations)
            ],
            AggregationTemporality.CUMULATIVE,
        )
    numbers = [
        NumberDataPoint(dict(zip(labels, one.labels, strict=True)), started_ns, now_ns, one.value)
        for one in found
        if not isinstance(one.value, Durations)
    ]
    if points.metric.type is MetricType.GAUGE:
        return Gauge(numbers)
    return Sum(numbers, AggregationTemporality.CUMULATIVE, is_monotonic=True)


def _histogram(
    attributes: dict[str, str], value: Durations, started_ns: int, now_ns: int
) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=started_ns,
        time_unix_nano=now_ns,
        count=value.num,
        sum=value.total,
        bucket_counts=value.counts,
        explicit_bounds=BOUNDS,
        min=UNKNOWN,
        max=UNKNOWN,
    )
