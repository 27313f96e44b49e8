"""The reference of the metrics shows what the code defines."""

from __future__ import annotations

import metrics_reference


def test_metrics_reference_is_written_from_the_definitions() -> None:
    """The page lists each metric with its type, labels and meaning, and the bounds of the buckets."""
    assert metrics_reference.PAGE.read_text() == metrics_reference.page(), (
        "run: python tests/metrics/metrics_reference.py"
    )
