"""Traces: spans of inserts and attempts for OpenTelemetry, compatible with River's otelriver."""
