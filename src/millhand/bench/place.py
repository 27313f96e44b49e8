"""Where it is measured: a schema that was made for it, and is gone afterwards."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.errors import MillhandError
from millhand.schema.migrator import Migrator, lines

SCHEMA_PREFIX = "millhand_bench_"
# A worker that was killed may hold its locks for as long as the server does not notice.
DROP_SECONDS = 60.0
SETTLE_SECONDS = 300.0

_MAY_CREATE = """
SELECT
    current_database()::text AS database,
    current_user::text AS role,
    has_database_privilege(current_database(), 'CREATE') AS may_create
"""
_AUDIT = """
SELECT
    count(*) AS num_jobs,
    count(*) FILTER (
        WHERE state = 'completed' AND finalized_at IS NOT NULL
        AND attempt = 1 AND cardinality(attempted_by) = 1 AND errors IS NULL
    ) AS num_completed,
    count(DISTINCT args) AS num_args
FROM "{schema}".river_job
"""
_TRANSACTIONS = """
SELECT xact_commit + xact_rollback AS num_transactions FROM pg_stat_database WHERE datname = current_database()
"""


class BenchRefused(MillhandError):
    """It cannot be measured here; nothing was changed."""


class AuditFailed(MillhandError):
    """Not every job was completed exactly once, so what was measured means nothing."""


class Place:
    """
    A schema with River's tables and nothing in them.

    Concurrency: no two measurements at once.
    """

    def __init__(self, driver: AsyncpgDriver, url: str) -> None:
        self._pool = driver.pool
        self.schema = driver.schema
        self.url = url

    async def empty(self) -> None:
        """Forget all jobs."""
        await self._pool.execute_script(
            f'TRUNCATE "{self.schema}".river_job, "{self.schema}".river_queue RESTART IDENTITY'
        )

    async def settle(self, *, with_checkpoint: bool) -> None:
        """Give every drain the same beginning: fresh statistics and, on a server that is ours, nothing to flush."""
        await self._pool.execute_script(
            f'VACUUM (ANALYZE) "{self.schema}".river_job', timeout_seconds=SETTLE_SECONDS
        )
        if with_checkpoint:
            await self._pool.execute_script("CHECKPOINT", timeout_seconds=SETTLE_SECONDS)

    async def audit(self, num_jobs: int) -> None:
        """Raise AuditFailed unless there are `num_jobs` jobs and each was completed by one attempt, its first."""
        found = (await self._pool.fetch(_AUDIT.format(schema=self.schema)))[0]
        if set(found.values()) != {num_jobs}:
            raise AuditFailed(
                f"each of {num_jobs:,} jobs must be completed by its first attempt, "
                f"got {found['num_jobs']:,} jobs, {found['num_args']:,} of them different, "
                f"and {found['num_completed']:,} completed so"
            )

    async def num_transactions(self) -> int:
        """Return how many transactions the database has counted; this question is one of them, a second later."""
        return int((await self._pool.fetch(_TRANSACTIONS))[0]["num_transactions"])

    async def backend_pid(self) -> int:
        """Return the process, on the server's machine, that serves a connection."""
        return int((await self._pool.fetch("SELECT pg_backend_pid() AS pid"))[0]["pid"])

    async def server_version(self) -> str:
        """Return the server's version, such as '18.6'."""
        return str((await self._pool.fetch("SHOW server_version"))[0]["server_version"]).partition(" ")[0]


@contextlib.asynccontextmanager
async def bench_place(url: str) -> AsyncIterator[Place]:
    """
    Make a schema with River's tables, and drop it at the end, whatever the end is.

    Raises: BenchRefused if the role may not make one; ConnectionLost.
    """
    schema = f"{SCHEMA_PREFIX}{secrets.token_hex(4)}"
    async with _opened(url, schema) as driver:
        await _check_may_create(driver)
        try:
            await driver.pool.execute_script(f'CREATE SCHEMA "{schema}"')
            for line in lines():
                await Migrator(driver, line).up()
            yield Place(driver, url)
        finally:
            # By a connection of its own: this one's pool may be what broke.
            async with _opened(url) as janitor:
                await janitor.pool.execute_script(
                    f'DROP SCHEMA IF EXISTS "{schema}" CASCADE', timeout_seconds=DROP_SECONDS
                )


@contextlib.asynccontextmanager
async def _opened(url: str, schema: str = "") -> AsyncIterator[AsyncpgDriver]:
    driver = AsyncpgDriver(url, schema, pool_size=2)
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def _check_may_create(driver: AsyncpgDriver) -> None:
    found = (await driver.pool.fetch(_MAY_CREATE))[0]
    if not found["may_create"]:
        raise BenchRefused(
            f"role must be allowed to create schemas in database {found['database']!r}, "
            f"got {found['role']!r} which is not; have the database's owner run: "
            f'GRANT CREATE ON DATABASE "{found["database"]}" TO "{found["role"]}"'
        )
