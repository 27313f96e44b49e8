from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import asyncpg
import pytest

from millhand.bench.measure import percentile
from millhand.bench.place import SCHEMA_PREFIX, AuditFailed, BenchRefused, Place, bench_place

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


async def test_place_is_gone_after_its_use(connection: asyncpg.Connection, postgres_url: str) -> None:
    """The schema is there, migrated, while it is measured, and nothing is left of it afterwards."""
    async with bench_place(postgres_url) as place:
        assert await schemas(connection) == [place.schema]
        assert await connection.fetchval(f"SELECT count(*) FROM {place.schema}.river_job") == 0

    assert await schemas(connection) == []


async def test_place_is_gone_after_an_error(connection: asyncpg.Connection, postgres_url: str) -> None:
    """What is raised inside goes through, and the schema is dropped all the same."""
    with pytest.raises(ZeroDivisionError):
        async with bench_place(postgres_url):
            raise ZeroDivisionError

    assert await schemas(connection) == []


async def test_place_is_gone_after_a_cancellation(connection: asyncpg.Connection, postgres_url: str) -> None:
    """A Ctrl-C in the middle of it, which cancels, leaves no schema."""
    is_inside = asyncio.Event()

    async def measure() -> None:
        async with bench_place(postgres_url):
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
    """Nothing is tried with such a role; the error says what its owner must grant."""
    await connection.execute("CREATE ROLE bench_guest")
    database = await connection.fetchval("SELECT current_database()")
    try:
        with pytest.raises(BenchRefused) as refused:
            async with bench_place(f"{postgres_url}&{urlencode({'role': 'bench_guest'})}"):
                pass
    finally:
        await connection.execute("DROP ROLE bench_guest")

    assert str(refused.value) == (
        f"role must be allowed to create schemas in database '{database}', got 'bench_guest' which is not; "
        f'have the database\'s owner run: GRANT CREATE ON DATABASE "{database}" TO "bench_guest"'
    )
    assert await schemas(connection) == []


@pytest.fixture
async def place(postgres_url: str) -> AsyncIterator[Place]:
    async with bench_place(postgres_url) as place:
        yield place


async def test_audit_accepts_what_was_done_once(connection: asyncpg.Connection, place: Place) -> None:
    """Jobs that their first attempt has completed are all that is asked for."""
    await connection.execute(INSERT.format(place.schema), '{"n": 0}', 1)
    await connection.execute(INSERT.format(place.schema), '{"n": 1}', 1)

    await place.audit(2)


async def test_audit_refuses_what_was_not(connection: asyncpg.Connection, place: Place) -> None:
    """A job that needed a second attempt, one that is there twice and one too few are told of."""
    await connection.execute(INSERT.format(place.schema), '{"n": 0}', 1)
    await connection.execute(INSERT.format(place.schema), '{"n": 0}', 2)

    with pytest.raises(AuditFailed) as refused:
        await place.audit(3)

    assert str(refused.value) == (
        "each of 3 jobs must be completed by its first attempt, got 2 jobs, 1 of them different, and 1 completed so"
    )


async def test_emptied_place_numbers_jobs_anew(connection: asyncpg.Connection, place: Place) -> None:
    """Each measurement begins as the first one did."""
    await connection.execute(INSERT.format(place.schema), '{"n": 0}', 1)
    await place.empty()
    await connection.execute(INSERT.format(place.schema), '{"n": 0}', 1)

    assert await connection.fetchval(f"SELECT array_agg(id) FROM {place.schema}.river_job") == [1]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 3.0), (0.99, 5.0), (1.0, 5.0)])
def test_percentile_is_one_of_the_values(share: float, expected: float) -> None:
    """Nothing is interpolated: of few values the highest percentile is the largest of them."""
    assert percentile([5.0, 1.0, 4.0, 2.0, 3.0], share) == expected
