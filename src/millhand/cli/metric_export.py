"""The metrics that `millhand worker --otel` exports, if OTEL_METRICS_EXPORTER names an exporter."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from millhand.client import Client
from millhand.shells.settings.load import Settings

if TYPE_CHECKING:
    from millhand.observe.otlp import PointsReader

SHUTDOWN_SECONDS = 5.0


@asynccontextmanager
async def exported_metrics(client: Client, settings: Settings) -> AsyncIterator[None]:
    """Export the metrics of a client inside the block, and once more at its end. Raises: ConfigError."""
    readers = metric_readers(client, settings, os.environ) if settings.get("otel.enabled") else []
    try:
        yield
    finally:
        for reader in readers:
            await asyncio.to_thread(reader.shutdown, SHUTDOWN_SECONDS * 1_000)


def metric_readers(client: Client, settings: Settings, environment: Mapping[str, str]) -> list[PointsReader]:
    """Return a reader for each exporter that the variables name; without the variable, none. Raises: ConfigError."""
    if not environment.get("OTEL_METRICS_EXPORTER"):
        return []
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - the setup of traces has found the SDK

    from millhand.observe.otlp import PointsReader  # noqa: PLC0415 - as above
    from millhand.tracing.sdk import load_exporters  # noqa: PLC0415 - as above

    with settings.errors_with_origin("otel"):
        exporters = load_exporters(environment, "METRICS", default="none")
    named = {"millhand.database": client.config.database} if client.config.database else {}
    resource = Resource.create({"service.instance.id": client.id, **named})
    return [
        PointsReader(client.read_metrics, exporter(), interval_seconds=None, resource=resource)
        for exporter in exporters
    ]
