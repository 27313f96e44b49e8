"""The reference of the metrics shows what the code defines."""

from __future__ import annotations

import re

import metrics_reference
from millhand.core.metrics.definitions import METRICS, MetricType

NAME = re.compile(r"\bmillhand_[a-z_]+(?=[`{)\[ ])")


def test_metrics_reference_is_written_from_the_definitions() -> None:
    """The page lists each metric with its type, labels and meaning, and the bounds of the buckets."""
    assert metrics_reference.PAGE.read_text() == metrics_reference.page(), (
        "run: python docs/.writers/metrics_reference.py"
    )


def test_pages_name_metrics_that_exist() -> None:
    """Each metric in a query or sentence of the guides is defined; of a histogram, also its parts are."""
    known = {metric.name for metric in METRICS}
    known |= {
        f"{metric.name}_{part}"
        for metric in METRICS
        if metric.type is MetricType.HISTOGRAM
        for part in ("bucket", "count", "sum")
    }
    guides = metrics_reference.PAGE.parents[1] / "how_to"

    named = NAME.findall((guides / "monitor.md").read_text())

    assert len(named) > 5
    assert [name for name in named if name not in known] == []
