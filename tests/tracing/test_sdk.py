"""Which exporter the variables of OpenTelemetry choose."""

from __future__ import annotations

import pytest

from millhand.core.errors import ConfigError
from millhand.tracing.sdk import exporter_names, start_sdk

GRPC, HTTP = "otlp_proto_grpc", "otlp_proto_http"


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, [(HTTP, GRPC)]),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, [(GRPC,)]),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            [(HTTP,)],
        ),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, [("console",), (HTTP, GRPC)]),
        ({"OTEL_TRACES_EXPORTER": "none"}, []),
    ],
)
def test_variables_choose_the_exporters(environment: dict[str, str], names: list[tuple[str, ...]]) -> None:
    """Exporter and protocol are those of the variables; without a protocol, that which is installed."""
    assert exporter_names(environment) == names


def test_signals_have_variables_of_their_own() -> None:
    """Metrics have an exporter and a protocol of their own, and none without the variable."""
    environment = {
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
    }

    assert exporter_names(environment, "METRICS", default="none") == [(GRPC,)]
    assert exporter_names({}, "METRICS", default="none") == []


def test_missing_exporter_is_an_error() -> None:
    """The error names the exporter, the package to install and the variable."""
    with pytest.raises(ConfigError) as caught:
        start_sdk({"OTEL_TRACES_EXPORTER": "zipkin_of_a_stranger"})

    assert str(caught.value) == (
        "enabled requires the exporter 'zipkin_of_a_stranger' of OpenTelemetry, got none; "
        "pip install opentelemetry-exporter-zipkin-of-a-stranger, or set OTEL_TRACES_EXPORTER"
    )
