"""
The metrics of a client, exported by OpenTelemetry; needs `opentelemetry-sdk` and an exporter.

    reader = MillhandMetricReader(client, OTLPMetricExporter())
    …
    reader.shutdown()
"""

from __future__ import annotations

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import Resource

from millhand.client import Client
from millhand.observe.otlp import PointsReader


class MillhandMetricReader(PointsReader):
    """
    Exports a client's metrics in a thread, until `shutdown`, which exports once more.

    Args:
        client: The client, started or not.
        exporter: Any exporter of OpenTelemetry's metrics, such as `OTLPMetricExporter`.
        interval_seconds: How often; by default as `OTEL_METRIC_EXPORT_INTERVAL` says, or once a minute.
        resource: What describes the process; by default the SDK's, with the client's id as `service.instance.id`.
    """

    def __init__(
        self,
        client: Client,
        exporter: MetricExporter,
        *,
        interval_seconds: float | None = None,
        resource: Resource | None = None,
    ) -> None:
        if resource is None:
            resource = Resource.create({"service.instance.id": client.id})
        super().__init__(client.read_metrics, exporter, interval_seconds=interval_seconds, resource=resource)
