"""PyPI's `riverqueue` and Millhand's module of that name run the same programs with the same rows."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import riverqueue as upstream
import sqlalchemy.exc
from riverqueue.driver import riversqlalchemy as upstream_driver
from riverqueue_cases import ASYNC, SYNC, Outcome, SortArgs
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from millhand import Config, ConfigError
from millhand.compat import riverqueue as ours
from millhand.compat.riverqueue.driver import riversqlalchemy as our_driver
from millhand.db.driver.asyncpg import AsyncpgDriver

UPSTREAM = (upstream, upstream_driver)
OURS = (ours, our_driver)

_ROWS = """
SELECT id, args::text, attempt, attempted_at, attempted_by, errors::text, finalized_at, kind, max_attempts,
    metadata::text, priority, queue, state::text, tags, unique_key, unique_states::text,
    CASE WHEN state = 'scheduled' THEN scheduled_at END AS scheduled_at, scheduled_at <= now() AS is_due,
    now() - created_at < '1 minute' AS is_new
FROM {schema}.river_job ORDER BY id
"""


@pytest.fixture
def engine(schema_driver: AsyncpgDriver, postgres_url: str) -> Iterator[Engine]:
    engine = create_engine(
        postgres_url.replace("postgresql", "postgresql+psycopg", 1),
        connect_args={"options": f"-csearch_path={schema_driver.schema}"},
    )
    yield engine
    engine.dispose()


@pytest.fixture
async def async_engine(schema_driver: AsyncpgDriver, postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(
        postgres_url.replace("postgresql", "postgresql+asyncpg", 1),
        connect_args={"server_settings": {"search_path": schema_driver.schema}},
    )
    yield engine
    await engine.dispose()


@pytest.fixture
def client(engine: Engine) -> ours.Client:
    return ours.Client(our_driver.Driver(engine))


async def rows_and_reset(driver: AsyncpgDriver) -> list[dict[str, Any]]:
    """Return all rows, and empty the table."""
    rows = await driver.pool.fetch(_ROWS.format(schema=driver.schema))
    await driver.pool.execute_script("TRUNCATE /* schema */river_job RESTART IDENTITY")
    return rows


def comparable(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome without what differs in each library or at each moment."""
    return {
        "counts": outcome.counts,
        "results": [
            {
                "skipped": result.unique_skipped_as_duplicated,
                **dataclasses.asdict(result.job),
                "created_at": result.job.created_at.tzinfo,
                "scheduled_at": result.job.scheduled_at if result.job.state == "scheduled" else None,
            }
            for result in outcome.results
        ],
    }


@pytest.mark.parametrize("case", SYNC)
async def test_program_writes_the_rows_of_the_real_package(
    case: Callable[[Any, Any, Any], Outcome], engine: Engine, schema_driver: AsyncpgDriver
) -> None:
    """A synchronous program with changed imports leaves the same rows and gets the same results."""
    seen = []
    for library, driver in (UPSTREAM, OURS):
        outcome = await asyncio.to_thread(case, library, library.Client(driver.Driver(engine)), engine)
        seen.append((comparable(outcome), await rows_and_reset(schema_driver)))

    assert seen[1] == seen[0]
    assert len(seen[0][1]) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("case", ASYNC)
async def test_asynchronous_program_writes_the_rows_of_the_real_package(
    case: Callable[[Any, Any, Any], Awaitable[Outcome]],
    async_engine: AsyncEngine,
    schema_driver: AsyncpgDriver,
) -> None:
    """An asynchronous program with changed imports leaves the same rows and gets the same results."""
    seen = []
    for library, driver in (UPSTREAM, OURS):
        outcome = await case(library, library.AsyncClient(driver.AsyncDriver(async_engine)), async_engine)
        seen.append((comparable(outcome), await rows_and_reset(schema_driver)))

    assert seen[1] == seen[0]
    assert len(seen[0][1]) >= 2


def test_names_are_those_of_the_real_package() -> None:
    """Both packages export the same names, with the same fields in the same order."""
    names = {name for name in dir(upstream) if name[0].isupper()}
    values = ("InsertOpts", "UniqueOpts", "InsertManyParams", "InsertResult", "Job", "AttemptError")

    assert names == {name for name in ours.__all__ if name[0].isupper()}
    assert [[field.name for field in dataclasses.fields(getattr(ours, name))] for name in values] == [
        [field.name for field in dataclasses.fields(getattr(upstream, name))] for name in values
    ]
    assert [state.value for state in upstream.JobState] == [state.value for state in ours.JobState]
    assert (ours.MAX_ATTEMPTS_DEFAULT, ours.PRIORITY_DEFAULT, ours.QUEUE_DEFAULT) == (25, 1, "default")


def test_error_of_an_attempt_is_written_and_read_as_by_the_real_package() -> None:
    """An error from one library's JSON equals that of the other."""
    error = ours.AttemptError(at=datetime(2031, 1, 2, 3, tzinfo=UTC), attempt=2, error="boom", trace="t")
    theirs = upstream.AttemptError.from_dict(json.loads(error.to_json()))

    assert theirs.to_json() == error.to_json()
    assert ours.AttemptError.from_dict(json.loads(theirs.to_json())) == error


# What differs, as docs/how_to/migrate_from/riverqueue.md says.


def test_unique_insert_of_the_real_package_fails_on_the_current_schema(engine: Engine) -> None:
    """For a unique job, the real package needs an index that River's migration 6 dropped."""
    theirs = upstream.Client(upstream_driver.Driver(engine))
    opts = upstream.InsertOpts(unique_opts=upstream.UniqueOpts(by_args=True))

    with pytest.raises(sqlalchemy.exc.ProgrammingError, match="no unique or exclusion constraint matching"):
        theirs.insert(SortArgs(["a"]), opts)


def test_unique_states_of_the_real_package_are_looked_up_without_their_period(engine: Engine) -> None:
    """With states, the real package stores no key, and takes a job of any time for one of this period."""
    theirs = upstream.Client(upstream_driver.Driver(engine))
    states = [upstream.JobState.AVAILABLE]
    unique = upstream.UniqueOpts(by_period=1, by_state=states)
    first = theirs.insert(SortArgs(["a"]), upstream.InsertOpts(unique_opts=unique))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE river_job SET created_at = now() - interval '1 day'")

    second = theirs.insert(SortArgs(["b"]), upstream.InsertOpts(unique_opts=unique))

    assert (first.job.unique_key, second.unique_skipped_as_duplicated) == (None, True)


async def test_insert_notifies_workers(engine: Engine, schema_driver: AsyncpgDriver) -> None:
    """The real package leaves a job to the next poll; Millhand notifies at the commit."""
    received: asyncio.Queue[str] = asyncio.Queue()
    listener = schema_driver.listener()
    await listener.connect()
    await listener.listen("river_insert", lambda payload: received.put_nowait(json.loads(payload)["queue"]))

    def program() -> None:
        for library, driver, queue in ((*UPSTREAM, "theirs"), (*OURS, "ours")):
            opts = library.InsertOpts(queue=queue)
            config = [Config(schema=schema_driver.schema)] if library is ours else []
            library.Client(driver.Driver(engine, *config)).insert(SortArgs([]), opts)

    await asyncio.to_thread(program)

    async with asyncio.timeout(20):
        assert await received.get() == "ours"
    await listener.close()


def test_database_of_another_kind_is_rejected() -> None:
    """An engine without a Millhand driver, and another object, raise when the driver is made."""
    with pytest.raises(ConfigError) as other:
        our_driver.Driver(create_engine("sqlite://"))
    with pytest.raises(ConfigError) as nothing:
        our_driver.Driver("postgresql://")  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as synchronous:
        our_driver.AsyncDriver(create_engine("postgresql+psycopg://"))  # type: ignore[arg-type]

    assert [str(one.value) for one in (other, nothing, synchronous)] == [
        (
            "engine must be of psycopg, got sqlite+pysqlite; "
            "make it of a URL that begins with 'postgresql+psycopg://'"
        ),
        "conn must be a SQLAlchemy Engine or Connection, got builtins.str",
        "conn must be a SQLAlchemy AsyncEngine or AsyncConnection, got sqlalchemy.engine.base.Engine",
    ]


@pytest.mark.parametrize("prefix", [-1, 1 << 32])
def test_lock_prefix_is_checked_and_not_used(engine: Engine, prefix: int) -> None:
    """A prefix is accepted exactly if the real package accepts it."""
    assert ours.Client(our_driver.Driver(engine), advisory_lock_prefix=7).advisory_lock_prefix == 7
    with pytest.raises(ConfigError) as refused:
        ours.Client(our_driver.Driver(engine), prefix)

    assert str(refused.value) == f"advisory_lock_prefix must be a number of 32 bits, got {prefix!r}"
