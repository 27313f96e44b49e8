"""Databases and a bucket for the examples."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from user_programs import fresh_database

sys.path.append(str(Path(__file__).parents[1] / "storage"))  # for the S3 servers
from servers import CREDENTIALS, seaweed


@pytest.fixture(scope="session")
async def database_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database, used by one example after the other as a reader's is."""
    async with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture
async def url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of a migrated database for one application."""
    async with fresh_database(postgres_server_url) as url:
        yield url


@pytest.fixture
async def empty_url(postgres_server_url: str) -> AsyncIterator[str]:
    """The URL of an empty database for one application that migrates it itself."""
    async with fresh_database(postgres_server_url, is_migrated=False) as url:
        yield url


@pytest.fixture
def s3_variables() -> Iterator[dict[str, str]]:
    """Variables with which botocore finds an S3 server that has no bucket yet."""
    with seaweed() as endpoint:
        yield {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}
