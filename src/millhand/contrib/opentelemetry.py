"""Traces with OpenTelemetry: a middleware for inserts and attempts, compatible with River's otelriver."""

from __future__ import annotations

from millhand.tracing.middleware import OpenTelemetry

__all__ = ["OpenTelemetry"]
