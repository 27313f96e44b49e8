"""Claims about points as OpenTelemetry's metrics."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricsData
from opentelemetry.sdk.resources import Resource

from millhand.core.metrics.definitions import BOUNDS, METRICS
from millhand.core.metrics.points import Durations, Point, Points
from millhand.observe.otlp import metrics_data


def points_of(data: MetricsData) -> dict[str, Any]:
    [resource] = data.resource_metrics
    [scope] = resource.scope_metrics
    assert scope.scope.name == "millhand"
    return {metric.name: (metric.unit, metric.data) for metric in scope.metrics}


def test_every_kind_of_point_is_exported() -> None:
    """Counters are cumulative sums, gauges gauges, and histograms keep their buckets and bounds."""
    by_name = {metric.name: metric for metric in METRICS}
    counts = [1] + [0] * 17 + [2]
    page = [
        Points(by_name["millhand_slots"], [Point(("mail",), 10)]),
        Points(by_name["millhand_jobs_fetched_total"], [Point(("mail",), 7)]),
        Points(by_name["millhand_job_run_seconds"], [Point(("send",), Durations(counts, 7201.5))]),
        Points(by_name["millhand_clients"], []),
    ]

    found = points_of(metrics_data(page, Resource.get_empty(), started_ns=1, now_ns=2))

    assert [*found] == ["millhand_slots", "millhand_jobs_fetched_total", "millhand_job_run_seconds"]
    [slots] = found["millhand_slots"][1].data_points
    assert (slots.attributes, slots.value) == ({"queue": "mail"}, 10)
    fetched = found["millhand_jobs_fetched_total"][1]
    assert (fetched.is_monotonic, fetched.aggregation_temporality) == (
        True,
        AggregationTemporality.CUMULATIVE,
    )
    assert (fetched.data_points[0].start_time_unix_nano, fetched.data_points[0].time_unix_nano) == (1, 2)
    [run] = found["millhand_job_run_seconds"][1].data_points
    assert (run.count, run.sum, run.bucket_counts, run.explicit_bounds) == (3, 7201.5, counts, BOUNDS)
