"""The schema that a benchmark creates, uses and drops."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

from millhand.core.errors import MillhandError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines

SCHEMA_PREFIX = "millhand_bench_"
# A killed worker holds its locks until the server notices.
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


class BenchRefused(MillhandError):
    """The benchmark cannot run here; nothing was changed."""


class AuditFailed(MillhandError):
    """Not every job was completed exactly once, so the figures mean nothing."""


class BenchSchema:
    """An empty schema with River's tables. Concurrency: one measurement at a time."""

    def __init__(self, driver: AsyncpgDriver, url: str) -> None:
        self.pool = driver.pool
        self.name = driver.schema
        self.url = url

    async def empty(self) -> None:
        await self.pool.execute_script(
            f'TRUNCATE "{self.name}".river_job, "{self.name}".river_queue RESTART IDENTITY'
        )

    async def settle(self, *, with_checkpoint: bool) -> None:
        """Refresh the statistics and, on a server of our own, flush everything, so that all measurements start alike."""
        await self.pool.execute_script(
            f'VACUUM (ANALYZE) "{self.name}".river_job', timeout_seconds=SETTLE_SECONDS
        )
        if with_checkpoint:
            await self.pool.execute_script("CHECKPOINT", timeout_seconds=SETTLE_SECONDS)

    async def audit(self, num_jobs: int) -> None:
        """Raise AuditFailed unless there are `num_jobs` jobs, each completed by its first attempt."""
        [found] = await self.pool.fetch(_AUDIT.format(schema=self.name), timeout_seconds=SETTLE_SECONDS)
        if set(found.values()) != {num_jobs}:
            raise AuditFailed(
                f"each of {num_jobs:,} jobs must be completed by its first attempt, "
                f"got {found['num_jobs']:,} jobs, {found['num_args']:,} of them distinct, "
                f"and {found['num_completed']:,} completed that way"
            )

    async def server_version(self) -> str:
        return str((await self.pool.fetch("SHOW server_version"))[0]["server_version"]).partition(" ")[0]


@contextlib.asynccontextmanager
async def bench_schema(url: str) -> AsyncIterator[BenchSchema]:
    """Create a schema with River's tables, and drop it at the end. Raises: BenchRefused without the right to create one."""
    schema = f"{SCHEMA_PREFIX}{secrets.token_hex(4)}"
    async with _opened(url, schema) as driver:
        await _check_may_create(driver)
        try:
            await driver.pool.execute_script(f'CREATE SCHEMA "{schema}"')
            for line in lines():
                await Migrator(driver, line).up()
            yield BenchSchema(driver, url)
        finally:
            # Through a new connection: the pool may be what failed.
            async with _opened(url) as cleaner:
                await cleaner.pool.execute_script(
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
