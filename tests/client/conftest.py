"""Fixtures of the tests of the client."""

from __future__ import annotations

from blob_urls import blob_url, bucket_url  # noqa: F401 - fixtures

from client_harness import harness  # noqa: F401 - a fixture
