"""Claims about the numbers that a client counts, and about their points."""

from __future__ import annotations

import msgspec
import pytest

from millhand.core.metrics.definitions import BOUNDS, METRICS
from millhand.core.metrics.numbers import NAMES_MAX, OTHER, Histogram, Names
from millhand.core.metrics.points import (
    Durations,
    Point,
    Points,
    decode_points,
    durations,
    encode_points,
    number,
    of_databases,
    of_processes,
)


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [
        (-1.0, 0),
        (0.0, 0),
        (0.001, 0),
        (0.0011, 1),
        (0.0025, 1),
        (1.0, 9),
        (3600.0, 17),
        (3600.1, 18),
        (1e12, 18),
    ],
)
def test_duration_is_counted_in_the_bucket_that_ends_at_or_above_it(seconds: float, bucket: int) -> None:
    """A bucket includes its bound, as `le` says; the last one has no bound, and a negative duration is in the first."""
    histogram = Histogram()

    histogram.add([seconds])

    assert [place for place, num in enumerate(histogram.counts) if num] == [bucket]


def test_sum_of_a_histogram_never_decreases() -> None:
    """A batch whose durations add up to less than 0, because two clocks differ, leaves the sum as it was."""
    histogram = Histogram()

    histogram.add([2.0, -0.5])
    histogram.add([-3.0])

    assert histogram.total == 1.5


def test_names_beyond_the_limit_are_one_label() -> None:
    """The first hundred names keep theirs, also when they come again; every later one is `_OTHER`."""
    names = Names()

    first = [names.capped("shop", str(number)) for number in range(NAMES_MAX)]

    assert first == [("shop", str(number)) for number in range(NAMES_MAX)]
    assert names.capped("shop", "later") == (OTHER, OTHER)
    assert names.capped("shop", "7") == ("shop", "7")


def test_buckets_are_exposed_as_sums() -> None:
    """Each bucket of a page counts what is at or below its bound, so the last one counts all."""
    histogram = Histogram()
    histogram.add([0.001, 0.002, 7200.0])

    [point] = durations(METRICS[0], {(): histogram}).points

    assert isinstance(point.value, Durations)
    buckets = point.value.cumulative()
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
