"""Traces: spans of inserts and attempts for OpenTelemetry, compatible with River's otelriver."""

from typing import Literal

Propagation = Literal["link", "child", "none"]
Style = Literal["semconv", "otelriver"]
