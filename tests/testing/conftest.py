"""Transactions as users' tests have them, each rolled back, on every driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
from sample_jobs import new_client, open_transaction
from sync_transactions import open_transaction as open_sync_transaction

from millhand.client import Client
from millhand.db.driver.asyncpg import AsyncpgDriver


@pytest.fixture
def url(driver: AsyncpgDriver, postgres_url: str) -> str:
    """The URL of the process's migrated database."""
    return postgres_url


@pytest.fixture
def client(url: str) -> Client:
    """A client that is not started, on a migrated database."""
    return new_client(url)


@pytest.fixture
async def tx(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A transaction of asyncpg."""
    async with open_transaction("asyncpg", url) as connection:
        yield connection


@pytest.fixture(
    params=[
        "asyncpg",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("psycopg", "sqlalchemy+asyncpg", "sqlalchemy+psycopg", "session")
        ),
    ]
)
async def any_tx(request: pytest.FixtureRequest, url: str) -> AsyncIterator[Any]:
    """A transaction of each kind that a `Client` takes."""
    async with open_transaction(request.param, url) as tx:
        yield tx


@pytest.fixture
async def committed_url(url: str, driver: AsyncpgDriver) -> AsyncIterator[str]:
    """The URL of the process's database, for tests that commit; emptied afterwards."""
    yield url
    tables = "river_job, river_leader, river_queue, millhand_client, millhand_leader"
    await driver.pool.fetch(f"TRUNCATE {tables}")


@pytest.fixture(
    params=["session", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("psycopg", "sqlalchemy"))]
)
def sync_tx(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    """A transaction of each kind that a `SyncClient` takes without Django."""
    with open_sync_transaction(request.param, url) as tx:
        yield tx
