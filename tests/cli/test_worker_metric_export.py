"""Claims about the metrics that `millhand worker --otel` exports."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

from millhand.cli.metric_export import metric_readers
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import ConfigError
from millhand.shells.settings.load import load_settings


async def test_worker_exports_to_what_the_variable_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter of OTEL_METRICS_EXPORTER gets the client's metrics; without the variable, there is none."""
    # It writes to what standard output was when its module was imported, in any earlier test.
    defaults = ConsoleMetricExporter.__init__.__defaults__ or ()
    monkeypatch.setattr(ConsoleMetricExporter.__init__, "__defaults__", (sys.stdout, *defaults[1:]))
    client, settings = Client("postgresql://ann@db/shop", Config()), load_settings(environment={})

    [reader] = metric_readers(client, settings, {"OTEL_METRICS_EXPORTER": "console"})
    reader.force_flush()
    reader.shutdown()

    assert '"name": "millhand_insert_seconds"' in capsys.readouterr().out
    assert metric_readers(client, settings, {}) == []


async def test_unknown_exporter_of_metrics_is_an_error() -> None:
    """The error names the exporter, the package to install and the variable."""
    client, settings = Client("postgresql://ann@db/shop", Config()), load_settings(environment={})

    with pytest.raises(
        ConfigError, match="pip install opentelemetry-exporter-zipkin, or set OTEL_METRICS_EXPORTER"
    ):
        metric_readers(client, settings, {"OTEL_METRICS_EXPORTER": "zipkin"})
