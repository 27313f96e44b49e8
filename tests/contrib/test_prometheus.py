"""Claims about a client's metrics in a registry of `prometheus_client`."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from millhand.client import Client
from millhand.contrib.prometheus import MillhandCollector
from millhand.core.config import Config
from millhand.core.metrics.definitions import METRICS
from millhand.core.metrics.points import Durations, Point, Points
from millhand.observe.prometheus import PointsCollector, page, process_points

URL = "postgresql://ann@db/shop"


def sample(text: str, name: str, **labels: str) -> float | None:
    """Return the value of a sample of a page."""
    return next(
        (
            one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.name == name and one.labels == labels
        ),
        None,
    )


async def test_application_registry_exposes_a_client() -> None:
    """A client that is not started exposes its counts in an application's registry, which refuses a second client."""
    registry = CollectorRegistry(auto_describe=True)
    registry.register(MillhandCollector(Client(URL, Config())))

    text = generate_latest(registry).decode()

    assert sample(text, "millhand_clients_declared_dead_total") == 0
    assert sample(text, "millhand_insert_seconds_bucket", le="+Inf") == 0
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry.register(MillhandCollector(Client(URL, Config())))


def test_page_has_every_kind_of_point() -> None:
    """Counters, gauges and histograms are on the page, with labels in which quotes and line ends are escaped."""
    by_name = {metric.name: metric for metric in METRICS}
    counts = [1] + [0] * 17 + [2]
    points = [
        Points(by_name["millhand_slots"], [Point(('ma"il\n',), 10.0)]),
        Points(by_name["millhand_jobs_fetched_total"], [Point(("mail",), 7)]),
        Points(by_name["millhand_job_run_seconds"], [Point(("send",), Durations(counts, 7201.5))]),
    ]

    text = page(lambda: points).decode()

    assert sample(text, "millhand_slots", queue='ma"il\n') == 10
    assert sample(text, "millhand_jobs_fetched_total", queue="mail") == 7
    assert sample(text, "millhand_job_run_seconds_bucket", kind="send", le="0.001") == 1
    assert sample(text, "millhand_job_run_seconds_bucket", kind="send", le="+Inf") == 3
    assert sample(text, "millhand_job_run_seconds_count", kind="send") == 3
    assert sample(text, "millhand_job_run_seconds_sum", kind="send") == 7201.5


def test_process_has_the_metrics_of_every_prometheus_library() -> None:
    """Memory, open files and CPU time of a process have the names that other programs give them."""
    text = page(process_points).decode()

    assert (sample(text, "process_resident_memory_bytes") or 0) > 1e6
    started_at = sample(text, "process_start_time_seconds")
    assert started_at is not None
    assert started_at < time.time()
    assert sample(text, "process_cpu_seconds_total") is not None


def test_collector_describes_every_metric() -> None:
    """A registry knows all names before the first collection."""
    described = [family.name for family in PointsCollector(tuple).describe()]

    assert described == [metric.name.removesuffix("_total") for metric in METRICS]
