"""Fixtures for flows."""

from __future__ import annotations

from client_harness import harness as harness  # noqa: PLC0414 - a fixture
