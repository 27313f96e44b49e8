"""Fixtures of the tests of values and rules; few of them need a client."""

from __future__ import annotations

from client_harness import harness  # noqa: F401 - a fixture
