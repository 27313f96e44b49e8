"""Claims about a client's metrics in an exporter of OpenTelemetry."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from millhand.client import Client
from millhand.contrib.opentelemetry_metrics import MillhandMetricReader
from millhand.core.config import Config


class Exporter(MetricExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[MetricsData] = []
        self.is_shut_down = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **more: Any
    ) -> MetricExportResult:
        self.given.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **more: Any) -> None:
        self.is_shut_down = True


async def test_reader_exports_a_client_until_it_is_shut_down() -> None:
    """A flush exports the client's points with its id, and a shutdown exports them once more."""
    client, exporter = Client("postgresql://ann@db/shop", Config(client_id="here")), Exporter()
    reader = MillhandMetricReader(client, exporter, interval_seconds=3600.0)

    reader.force_flush()
    reader.shutdown()

    first, last = exporter.given
    assert first.resource_metrics[0].resource.attributes["service.instance.id"] == "here"
    [scope] = last.resource_metrics[0].scope_metrics
    assert "millhand_insert_seconds" in [metric.name for metric in scope.metrics]
    assert exporter.is_shut_down
