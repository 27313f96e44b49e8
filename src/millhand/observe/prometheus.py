"""Points as Prometheus metrics: a collector for a registry, and the text of a page; needs `prometheus_client`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from millhand.core.metrics import definitions
from millhand.core.metrics.definitions import METRICS, MetricType
from millhand.core.metrics.points import Durations, Point, Points

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TOTAL = "_total"


class PointsCollector(Collector):
    """Collects what `read` returns whenever its registry is asked."""

    def __init__(self, read: Callable[[], Sequence[Points]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        return map(family_of, self._read())

    def describe(self) -> Iterator[Metric]:
        """Return every name that a collection may have, so that a registry refuses a second collector of them."""
        return (family_of(Points(metric, [])) for metric in METRICS)


def family_of(points: Points) -> Metric:
    """Return the points of one metric as the library has them."""
    metric = points.metric
    match metric.type:
        case MetricType.HISTOGRAM:
            histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for point in points.points:
                if isinstance(point.value, Durations):
                    histogram.add_metric(point.labels, point.value.cumulative(), point.value.total)
            return histogram
        case MetricType.COUNTER:
            family: CounterMetricFamily | GaugeMetricFamily
            family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        case MetricType.GAUGE:
            family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for point in points.points:
        if not isinstance(point.value, Durations):
            family.add_metric(point.labels, point.value)
    return family


def page(read: Callable[[], Sequence[Points]]) -> bytes:
    """Return a page in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PointsCollector(read))
    return generate_latest(registry)


def process_points() -> list[Points]:
    """Return the metrics that Prometheus libraries have of each process, such as its memory and open files."""
    return [_points_of(family) for family in ProcessCollector(registry=None).collect()]


def _points_of(family: Metric) -> Points:
    type = MetricType(family.type)
    name = family.name + TOTAL * (type is MetricType.COUNTER)
    return Points(
        definitions.Metric(name, type, family.documentation),
        [Point((), sample.value) for sample in family.samples if sample.name == name],
    )


def read_all(*reads: Callable[[], Iterable[Points]]) -> list[Points]:
    return [points for read in reads for points in read()]
