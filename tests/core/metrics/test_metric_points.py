"""Claims about the points of metrics."""

from __future__ import annotations

import msgspec

from millhand.core.metrics.definitions import BOUNDS, METRICS
from millhand.core.metrics.points import (
    Durations,
    Point,
    Points,
    decode_points,
    encode_points,
    number,
    of_databases,
    of_processes,
)


def test_buckets_are_exposed_as_sums() -> None:
    """Each bucket of a page counts what is at or below its bound, so the last one counts all."""
    value = Durations([1, 1, *[0] * (len(BOUNDS) - 2), 1], 7200.003)

    buckets = value.cumulative()

    assert buckets[:3] == [("0.001", 1), ("0.0025", 2), ("0.005", 2)]
    assert buckets[-2:] == [("3600.0", 2), ("+Inf", 3)]


def test_points_of_processes_are_one_page() -> None:
    """What two processes sent becomes one page with a label for the process; a metric of one alone is there too."""
    slots, up = (
        msgspec.structs.replace(METRICS[0], name=name, labels=labels)
        for name, labels in (("slots", ("queue",)), ("up", ()))
    )
    histogram = Points(up, [Point((), Durations([0] * (len(BOUNDS) + 1), 0.5))])
    first = decode_points(encode_points([number(slots, 3, "mail")]))
    second = decode_points(encode_points([number(slots, 4, "mail"), histogram]))
    is_up = decode_points(encode_points([number(up, value=True)]))

    page = of_processes({"0": first, "1": second})

    assert is_up == [Points(up, [Point((), 1.0)])]

    assert [(one.metric.name, one.metric.labels, one.points) for one in page] == [
        ("slots", ("process", "queue"), [Point(("0", "mail"), 3), Point(("1", "mail"), 4)]),
        ("up", ("process",), [Point(("1",), histogram.points[0].value)]),
    ]


def test_points_of_databases_have_their_label_behind_that_of_the_process() -> None:
    """A worker labels the points of its databases, and a supervisor those of its processes, so a page may have both."""
    slots = msgspec.structs.replace(METRICS[0], name="slots", labels=("queue",))
    worker = of_databases({"eu": [number(slots, 3, "mail")], "us": [number(slots, 4, "mail")]})

    [page] = of_processes({"0": decode_points(encode_points(worker))})

    assert page.metric.labels == ("process", "database", "queue")
    assert [point.labels for point in page.points] == [("0", "eu", "mail"), ("0", "us", "mail")]
