"""
Set up the SDK of OpenTelemetry as its own variables say: `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_ENDPOINT` and others.

The SDK reads all of them but two: which exporter to use, and the protocol of OTLP.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import trace

from millhand.core.errors import ConfigError

_OTLP = {"grpc": ("otlp_proto_grpc",), "http/protobuf": ("otlp_proto_http",)}
_OTLP_ANY = ("otlp_proto_http", "otlp_proto_grpc")


def start_sdk(environment: Mapping[str, str] = os.environ) -> None:
    """Set the global provider of spans, unless the application has set one. Raises: ConfigError."""
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    try:
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - the extra has only the API
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above
    except ImportError as error:
        raise ConfigError(
            "enabled requires the SDK of OpenTelemetry, got none; "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
        ) from error
    exporters = [exporter() for exporter in load_exporters(environment)]
    provider = TracerProvider()
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def load_exporters(
    environment: Mapping[str, str], signal: str = "TRACES", *, default: str = "otlp"
) -> list[Any]:
    """Return the classes of the exporters that the variables choose for traces or metrics. Raises: ConfigError."""
    return [_exporter(names, signal) for names in exporter_names(environment, signal, default=default)]


def exporter_names(
    environment: Mapping[str, str], signal: str = "TRACES", *, default: str = "otlp"
) -> list[tuple[str, ...]]:
    """Return the exporters that the variables choose: for each the names of its entry point, the best first."""
    chosen = environment.get(f"OTEL_{signal}_EXPORTER", "").strip() or default
    protocol = environment.get(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", ""
    )
    names = [name.strip() for name in chosen.split(",")]
    return [
        _OTLP.get(protocol.strip(), _OTLP_ANY) if name == "otlp" else (name,)
        for name in names
        if name not in ("", "none")
    ]


def _exporter(names: tuple[str, ...], signal: str) -> Any:  # noqa: ANN401 - a class of the SDK or of another package
    for name in names:
        for point in entry_points(group=f"opentelemetry_{signal.lower()}_exporter", name=name):
            return point.load()
    package = f"opentelemetry-exporter-{names[0].replace('_', '-')}"
    raise ConfigError(
        f"enabled requires the exporter {names[0]!r} of OpenTelemetry, got none; pip install {package}, "
        f"or set OTEL_{signal}_EXPORTER"
    )
