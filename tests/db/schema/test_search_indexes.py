"""Claims about dropping and building River's search indexes."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest

from dropped_indexes import dropped_indexes
from factory import GENEROUS_SECONDS, insert_job, qualified
from millhand.core.errors import MigrationError
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.index import SEARCH_INDEXES, SearchIndex, index_get_columns, index_get_searches
from millhand.db.schema.search_indexes import Action, IndexStep, apply, missing, plan, refusal, sql, steps

ARGS, METADATA = SEARCH_INDEXES
FOUND = SearchIndex(
    name=ARGS, column="args", owner="shop", role="shop", is_owner=True, may_create=True, is_there=True,
    is_rivers=True, is_valid=True, used_by=None, num_bytes=8192, others=(),
)  # fmt: skip
GONE = {"is_there": False, "is_rivers": False, "is_valid": False, "num_bytes": 0}
DROP, BUILD = IndexStep(action=Action.DROP, name=ARGS), IndexStep(action=Action.BUILD, name=ARGS)
LEFT = msgspec.structs.replace(DROP, is_left=True)
NAMES = list(SEARCH_INDEXES)


def found(**changes: Any) -> SearchIndex:
    return msgspec.structs.replace(FOUND, **changes)


@pytest.mark.parametrize(
    ("one", "build", "drop"),
    [
        (found(), [], [msgspec.structs.replace(DROP, num_bytes=8192)]),
        (found(**GONE), [BUILD], []),
        (found(is_valid=False, num_bytes=0), [LEFT, BUILD], [LEFT]),
        (
            found(**GONE, others=(f"{ARGS}_ccnew",)),
            [msgspec.structs.replace(LEFT, name=f"{ARGS}_ccnew"), BUILD],
            [msgspec.structs.replace(LEFT, name=f"{ARGS}_ccnew")],
        ),
    ],
)
def test_steps_follow_from_what_is_there(
    one: SearchIndex, build: list[IndexStep], drop: list[IndexStep]
) -> None:
    """An index that is as wanted needs no step, and what an interrupted call or rebuild left is dropped first."""
    assert steps([one], is_wanted=True) == build
    assert steps([one], is_wanted=False) == drop
    assert missing([one]) == ([] if one.is_valid else [ARGS])


@pytest.mark.parametrize(
    ("ones", "is_wanted", "reason"),
    [
        ([found()], False, None),
        ([found(is_owner=False, may_create=False)], True, None),
        ([found(used_by=7)], True, None),
        (
            [],
            True,
            "table river_job must exist to be tuned, found none in schema 'jobs'; run: millhand migrate up",
        ),
        (
            [found(is_rivers=False)],
            True,
            (
                f"{ARGS} must be River's index, gin (args) of river_job, got another definition in schema 'jobs'; "
                "rename it or drop it"
            ),
        ),
        (
            [found(used_by=7)],
            False,
            (
                f"{ARGS} must not be in use, got session 7, which builds or drops it; wait for its end, or "
                "run: SELECT pg_terminate_backend(7)"
            ),
        ),
        (
            [found(is_owner=False, role="web")],
            False,
            "role 'web' must own table river_job to change its indexes, got owner 'shop'; run it as the owner",
        ),
        (
            [found(**GONE, may_create=False)],
            True,
            "role 'shop' must have CREATE on the schema of river_job to build indexes, got no right; grant it",
        ),
    ],
)
def test_call_is_refused_before_its_first_step(
    ones: Sequence[SearchIndex], is_wanted: bool, reason: str | None
) -> None:
    """What a step would fail of is found before it, with a remedy; nothing is refused if nothing is to be done."""
    assert refusal(ones, steps(ones, is_wanted=is_wanted), "jobs") == reason


def test_sql_is_that_of_the_steps() -> None:
    """The SQL names the schema, and locks out no writes."""
    assert sql([DROP, BUILD], "jobs") == (
        'DROP INDEX CONCURRENTLY IF EXISTS "jobs"."river_job_args_index";\n'
        'CREATE INDEX CONCURRENTLY "river_job_args_index" ON "jobs".river_job USING gin (args);'
    )


async def test_search_indexes_of_a_migrated_schema_are_rivers(schema_driver: AsyncpgDriver) -> None:
    """In a migrated schema both are valid, and a schema without a job table has none."""
    found = await schema_driver.pool.run(index_get_searches())

    assert [(one.name, one.is_rivers, one.is_valid, one.used_by, one.others) for one in found] == [
        (name, True, True, None, ()) for name in NAMES
    ]
    assert await schema_driver.pool.run(index_get_columns()) == {"args", "metadata"}


async def definitions(driver: AsyncpgDriver) -> dict[str, tuple[str, bool]]:
    """Return how PostgreSQL defines each index of jobs, and whether it is valid."""
    query = """
        SELECT class.relname, pg_get_indexdef(class.oid) AS text, index.indisvalid
        FROM pg_index AS index INNER JOIN pg_class AS class ON index.indexrelid = class.oid
        WHERE index.indrelid = $1::text::regclass
    """
    rows = await driver.pool.fetch(query, [f"{driver.schema}.river_job"])
    return {row["relname"]: (row["text"], row["indisvalid"]) for row in rows}


async def tune(driver: AsyncpgDriver, *, is_wanted: bool) -> list[IndexStep]:
    planned = await plan(driver, is_wanted=is_wanted)
    for step in planned:
        await apply(driver, step)
    return planned


@pytest.fixture
async def index_driver(schema_driver: AsyncpgDriver) -> AsyncIterator[AsyncpgDriver]:
    """A driver on a schema whose search indexes are built anew after the test."""
    yield schema_driver
    async with dropped_indexes(schema_driver.pool):
        pass


@pytest.mark.slow
async def test_built_indexes_are_those_of_rivers_migration(index_driver: AsyncpgDriver) -> None:
    """After a drop and a build the table has the indexes of River's migration, and a repeated call has nothing to do."""
    before = await definitions(index_driver)
    await tune(index_driver, is_wanted=False)
    without = await definitions(index_driver)
    columns = await index_driver.pool.run(index_get_columns())
    again = await tune(index_driver, is_wanted=False)
    await tune(index_driver, is_wanted=True)

    assert (before.keys() - without.keys(), columns, again) == ({ARGS, METADATA}, set(), [])
    assert await definitions(index_driver) == before
    assert await tune(index_driver, is_wanted=True) == []


@contextlib.asynccontextmanager
async def half_done(driver: AsyncpgDriver, step: IndexStep) -> AsyncIterator[asyncio.Task[None]]:
    """Yield the task of a step that waits for an open transaction with the index invalid; it ends with the block."""
    async with driver.pool.begin() as tx:
        await tx.fetch(qualified("LOCK TABLE /* schema */river_job IN ROW EXCLUSIVE MODE", tx))
        task = asyncio.create_task(apply(driver, step))
        async with asyncio.timeout(GENEROUS_SECONDS):
            while (await definitions(driver)).get(step.name, ("", True))[1]:
                assert not task.done()
        yield task
    with contextlib.suppress(asyncio.CancelledError, MigrationError):
        await task


@pytest.mark.slow
@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize("action", list(Action))
async def test_interrupted_call_is_finished_by_the_next(
    index_driver: AsyncpgDriver, action: Action, is_wanted: bool
) -> None:
    """A build or drop that is cancelled half done leaves an invalid index, which the next call replaces or drops."""
    rivers = await definitions(index_driver)
    if action is Action.BUILD:
        await tune(index_driver, is_wanted=False)

    async with half_done(index_driver, IndexStep(action=action, name=ARGS)) as task:
        task.cancel()
        await asyncio.wait([task])
    left = await definitions(index_driver)
    await tune(index_driver, is_wanted=is_wanted)

    assert left[ARGS][1] is False
    assert await definitions(index_driver) == {
        name: definition for name, definition in rivers.items() if is_wanted or name not in NAMES
    }


@pytest.mark.slow
async def test_jobs_are_inserted_while_an_index_is_built(index_driver: AsyncpgDriver) -> None:
    """A build that waits for an open transaction holds up no insert, and a second call names its session."""
    await tune(index_driver, is_wanted=False)
    async with half_done(index_driver, BUILD) as task:
        async with asyncio.timeout(GENEROUS_SECONDS):
            await insert_job(index_driver.pool)
        with pytest.raises(
            MigrationError, match=r"must not be in use, got session \d+, which builds or drops"
        ):
            await plan(index_driver, is_wanted=True)
        assert not task.done()
    await task

    assert (await definitions(index_driver))[ARGS][1] is True


@pytest.mark.slow
async def test_index_of_another_definition_is_left_alone(index_driver: AsyncpgDriver) -> None:
    """An index with River's name, but another method, operator class, column or condition, is neither dropped nor built."""
    table = f"{index_driver.schema}.river_job"
    for definition in (
        "USING gin (args jsonb_path_ops)", "(kind)", "USING gin (metadata)", "USING gin (args) WHERE id > 1",
        "USING gin (args, metadata)",
    ):  # fmt: skip
        await index_driver.pool.execute_script(
            f"DROP INDEX {index_driver.schema}.{ARGS}; CREATE INDEX {ARGS} ON {table} {definition}"
        )
        for is_wanted in (True, False):
            with pytest.raises(MigrationError, match="got another definition"):
                await plan(index_driver, is_wanted=is_wanted)


@pytest.mark.slow
async def test_role_that_is_not_the_owner_is_refused(index_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A role without the table is refused with the owner's name, and a member of the owner's role is not."""
    role, url = f"tune_{secrets.token_hex(4)}", f"{postgres_url}{'&' if '?' in postgres_url else '?'}"
    await index_driver.pool.execute_script(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {index_driver.schema} TO {role}"
    )
    other = AsyncpgDriver(f"{url}options=-c%20role%3D{role}", index_driver.schema)
    await other.open()
    with pytest.raises(
        MigrationError, match=rf"role '{role}' must own table river_job to change its indexes"
    ):
        await plan(other, is_wanted=False)
    await other.close()
    await index_driver.pool.execute_script(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.slow
async def test_failure_says_what_is_left(index_driver: AsyncpgDriver, postgres_url: str) -> None:
    """A build that statement_timeout ends is an error with the remedies, and the next call finishes it."""
    await tune(index_driver, is_wanted=False)
    # Long enough for the build to come to its wait for the transaction, from when on it leaves something.
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20statement_timeout%3D2000"
    hasty = AsyncpgDriver(url, index_driver.schema)
    await hasty.open()
    async with index_driver.pool.begin() as tx:
        await tx.fetch(qualified("LOCK TABLE /* schema */river_job IN ROW EXCLUSIVE MODE", tx))
        with pytest.raises(MigrationError) as failed:
            await apply(hasty, BUILD)
    await hasty.close()

    assert str(failed.value) == (
        f"{ARGS} must build, got canceling statement due to statement timeout; set statement_timeout = 0 for the role, "
        "and run the command again: it drops what is left, which every insert writes until then"
    )
    assert [step.action for step in await tune(index_driver, is_wanted=True)] == [
        Action.DROP,
        Action.BUILD,
        Action.BUILD,
    ]
