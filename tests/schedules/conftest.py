"""Fixtures that these tests share with others."""

from __future__ import annotations

from client_harness import harness  # noqa: F401 - a fixture
