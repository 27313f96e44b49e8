"""
Write the tables of docs/reference/metrics.md from the definitions of the metrics.

Run `python docs/.writers/metrics_reference.py` to write them; test_metrics_reference.py compares them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from millhand.core.metrics.definitions import BOUNDS, CLIENT_METRICS, FLEET_METRICS, PROCESS_METRICS, Metric

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def page() -> str:
    """Return the page with its tables written anew."""
    text = PAGE.read_text()
    parts = {
        "client": table(CLIENT_METRICS),
        "process": table(PROCESS_METRICS),
        "fleet": table(FLEET_METRICS),
        "buckets": buckets(),
    }
    for name, written in parts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{written}\n\n{end}{rest.partition(end)[2]}"
    return text


def table(metrics: Iterable[Metric]) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.type} | {labels} | {metric.help} |")
    return "\n".join(rows)


def buckets() -> str:
    return ", ".join(f"`{bound:g}`" for bound in BOUNDS)


if __name__ == "__main__":
    PAGE.write_text(page())
