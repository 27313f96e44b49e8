"""Claims about the definitions of the metrics."""

from __future__ import annotations

from millhand.core.metrics.definitions import METRICS, MetricType


def test_names_of_metrics_follow_the_rules_of_prometheus() -> None:
    """A counter ends in `_total`, a histogram in `_seconds`; no name is defined twice, and no label is reserved."""
    names = [metric.name for metric in METRICS]

    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("millhand_")
        assert metric.name.endswith("_total") is (metric.type is MetricType.COUNTER), metric.name
        assert metric.type is not MetricType.HISTOGRAM or metric.name.endswith("_seconds"), metric.name
        assert not {"le", "process", "job", "instance"} & set(metric.labels), metric.name
