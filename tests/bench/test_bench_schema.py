from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import asyncpg
import pytest

from millhand.bench.bench_schema import SCHEMA_PREFIX, AuditFailed, BenchRefused, BenchSchema, bench_schema

SCHEMAS = f"SELECT nspname FROM pg_namespace WHERE starts_with(nspname, '{SCHEMA_PREFIX}')"
INSERT = """
INSERT INTO {}.river_job (kind, args, state, max_attempts, attempt, attempted_by, finalized_at)
VALUES ('noop', $1::text::jsonb, 'completed', 25, $2, '{{a}}', now())
"""


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


async def schemas(connection: asyncpg.Connection) -> list[str]:
    return [row["nspname"] for row in await connection.fetch(SCHEMAS)]


@pytest.mark.slow
async def test_schema_is_dropped_after_its_use(connection: asyncpg.Connection, postgres_url: str) -> None:
    """The schema exists, migrated, inside the block, and not after it."""
    async with bench_schema(postgres_url) as schema:
        assert await schemas(connection) == [schema.name]
        assert await connection.fetchval(f"SELECT count(*) FROM {schema.name}.river_job") == 0

    assert await schemas(connection) == []


@pytest.mark.slow
async def test_schema_is_dropped_after_an_error(connection: asyncpg.Connection, postgres_url: str) -> None:
    """An error inside the block is raised, and the schema is dropped."""
    with pytest.raises(ZeroDivisionError):
        async with bench_schema(postgres_url):
            raise ZeroDivisionError

    assert await schemas(connection) == []


@pytest.mark.slow
async def test_schema_is_dropped_after_a_cancellation(
    connection: asyncpg.Connection, postgres_url: str
) -> None:
    """A cancellation inside the block leaves no schema."""
    is_inside = asyncio.Event()

    async def measure() -> None:
        async with bench_schema(postgres_url):
            is_inside.set()
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        measuring = group.create_task(measure())
        await is_inside.wait()
        measuring.cancel()

    assert measuring.cancelled()
    assert await schemas(connection) == []


async def test_role_that_may_not_create_schemas_is_refused(
    connection: asyncpg.Connection, postgres_url: str
) -> None:
    """Such a role changes nothing; the error names the grant that the owner must give."""
    await connection.execute("CREATE ROLE bench_guest")
    database = await connection.fetchval("SELECT current_database()")
    try:
        with pytest.raises(BenchRefused) as refused:
            async with bench_schema(f"{postgres_url}&{urlencode({'role': 'bench_guest'})}"):
                pass
    finally:
        await connection.execute("DROP ROLE bench_guest")

    assert str(refused.value) == (
        f"role must be allowed to create schemas in database '{database}', got 'bench_guest' which is not; "
        f'have the database\'s owner run: GRANT CREATE ON DATABASE "{database}" TO "bench_guest"'
    )
    assert await schemas(connection) == []


@pytest.fixture
async def schema(postgres_url: str) -> AsyncIterator[BenchSchema]:
    async with bench_schema(postgres_url) as schema:
        yield schema


@pytest.mark.slow
async def test_audit_accepts_jobs_that_ran_once(connection: asyncpg.Connection, schema: BenchSchema) -> None:
    """Jobs that their first attempt completed pass the audit."""
    await connection.execute(INSERT.format(schema.name), '{"n": 0}', 1)
    await connection.execute(INSERT.format(schema.name), '{"n": 1}', 1)

    await schema.audit(2)


@pytest.mark.slow
async def test_audit_refuses_repeated_and_missing_jobs(
    connection: asyncpg.Connection, schema: BenchSchema
) -> None:
    """The error counts a second attempt, a duplicate and a missing job."""
    await connection.execute(INSERT.format(schema.name), '{"n": 0}', 1)
    await connection.execute(INSERT.format(schema.name), '{"n": 0}', 2)

    with pytest.raises(AuditFailed) as refused:
        await schema.audit(3)

    assert str(refused.value) == (
        "each of 3 jobs must be completed by its first attempt, got 2 jobs, 1 of them distinct, and 1 completed that way"
    )


@pytest.mark.slow
async def test_emptied_schema_restarts_job_ids(connection: asyncpg.Connection, schema: BenchSchema) -> None:
    """After `empty`, the first job has id 1 again."""
    await connection.execute(INSERT.format(schema.name), '{"n": 0}', 1)
    await schema.empty()
    await connection.execute(INSERT.format(schema.name), '{"n": 0}', 1)

    assert await connection.fetchval(f"SELECT array_agg(id) FROM {schema.name}.river_job") == [1]
