"""The traces of `millhand worker --otel`."""

from __future__ import annotations

from collections.abc import Sequence

from millhand.core.errors import ConfigError
from millhand.core.hooks import Middleware
from millhand.shells.settings.load import Settings


def traced(middleware: Sequence[Middleware], settings: Settings) -> Sequence[Middleware]:
    """Return `middleware` with that of OpenTelemetry before it, unless it has one. Raises: ConfigError."""
    with settings.errors_with_origin("otel"):
        try:
            from millhand.tracing.middleware import OpenTelemetry  # noqa: PLC0415 - needs an extra
            from millhand.tracing.sdk import start_sdk  # noqa: PLC0415 - as above
        except ImportError as error:
            raise ConfigError(
                "enabled requires the package opentelemetry-api, got none; pip install 'millhand[otel]' "
                "opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
            ) from error
        start_sdk()
        if any(isinstance(one, OpenTelemetry) for one in middleware):
            return middleware
        propagation, style = settings.get("otel.propagation"), settings.get("otel.style")
        return [OpenTelemetry(propagation=propagation, style=style), *middleware]
