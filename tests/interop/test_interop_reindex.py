"""The reindexer of a leader of each language, on one table."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from interop_harness import BOTH_WAYS, LANGUAGES, Harness, Language
from river_program import GENEROUS_SECONDS

from dropped_indexes import dropped_indexes
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.periodic import IntervalSchedule
from millhand.core.worker import Workers
from millhand.db.index import SEARCH_INDEXES
from millhand.db.schema import search_indexes

NAME = "river_job_kind"
# An index of another table, so that a lock that delays one rebuild does not delay the other.
OTHER_NAME = "river_queue_pkey"
PAUSE_SECONDS = 0.3

Stop = Callable[[], Awaitable[Any]]


@contextlib.asynccontextmanager
async def rebuilding(harness: Harness, language: Language, *names: str) -> AsyncIterator[Stop]:
    """Start a client that leads and rebuilds indexes; yield a function that stops it."""
    if language == "go":
        schedule = {"reindex_indexes": names, "reindex_seconds": PAUSE_SECONDS}
        await harness.go.call(
            "start", id="go_a", kinds=["act"], queues={"default": 1}, schema=harness.schema, **schedule
        )
        stop = once(lambda: harness.go.call("stop", id="go_a"))
    else:
        workers = Workers()
        workers.add(kind="act")(_nothing)
        client = Client(
            harness.url,
            Config(
                client_id="python_a",
                heartbeat_interval=None,
                queues={"default": 1},
                reindexer_index_names=names,
                reindexer_schedule=IntervalSchedule(timedelta(seconds=PAUSE_SECONDS)),
                schema=harness.schema,
                workers=workers,
            ),
        )
        await client.start()
        stop = once(client.stop)
    try:
        yield stop
    finally:
        await stop()


async def _nothing(job: Any) -> None:
    pass


def once(stop: Stop) -> Stop:
    """Return a stop function for repeated calls, which waits for its first call."""
    stops: list[asyncio.Future[Any]] = []

    async def stop_once() -> None:
        if not stops:
            stops.append(asyncio.ensure_future(stop()))
        await stops[0]

    return stop_once


@contextlib.asynccontextmanager
async def writer(harness: Harness) -> AsyncIterator[None]:
    """Hold a transaction open that has written: a rebuild waits for it when it is half done."""
    async with harness.driver.pool.begin() as tx:
        await tx.fetch(f"LOCK TABLE {harness.prefix}river_job IN ROW EXCLUSIVE MODE")
        yield


OPEN_TRANSACTIONS = """
    SELECT application_name, now() - xact_start, state, left(query, 200)
    FROM pg_stat_activity
    WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
"""


async def indexes(harness: Harness) -> dict[str, tuple[int, bool]]:
    """Return the file of each index, another if it was rebuilt, and whether it is valid."""
    sql = """
        SELECT class.relname, class.relfilenode, indisvalid
        FROM pg_class AS class JOIN pg_index ON indexrelid = class.oid
        WHERE class.relnamespace = quote_ident($1)::regnamespace AND class.relname ~ '^river_(job|queue)_'
    """
    return {name: (file, is_valid) for name, file, is_valid in await harness.fetch(sql, harness.schema)}


async def until(harness: Harness, condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll a condition, because catalogs send no event. A rebuild waits for all transactions, so print open ones."""
    try:
        async with asyncio.timeout(GENEROUS_SECONDS):
            while not await condition():
                pass
    except TimeoutError as error:
        sessions = await harness.fetch(OPEN_TRANSACTIONS)
        raise TimeoutError("open transactions: " + "; ".join(str(tuple(one)) for one in sessions)) from error


async def until_rebuilt(harness: Harness, name: str) -> None:
    before = await indexes(harness)

    async def condition() -> bool:
        now = await indexes(harness)
        return (
            name in now and now[name] != before[name] and not any("_cc" in one for one in now.keys() - before)
        )

    await until(harness, condition)


async def until_half_made(harness: Harness) -> None:
    async def condition() -> bool:
        return f"{NAME}_ccnew" in await indexes(harness)

    await until(harness, condition)


async def until_no_rebuild_runs(harness: Harness) -> None:
    async def condition() -> bool:
        sql = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' "
            "AND query ~ '^REINDEX|^[^S].*REINDEX INDEX'"
        )
        return not await harness.fetch(sql)

    await until(harness, condition)


@pytest.mark.parametrize("leader", LANGUAGES)
@pytest.mark.parametrize("suffix", ["_ccnew", "_ccold", "_ccnew3"])
async def test_leader_skips_an_index_with_leftovers(harness: Harness, leader: Language, suffix: str) -> None:
    """
    37: maintenance_reindexer_skips_artifacts.

    The leader rebuilds the other indexes, and this one too once its leftover is dropped.
    """
    leftover = f"{NAME}{suffix}"
    await harness.fetch(f"CREATE INDEX {leftover} ON /* schema */river_job (kind)")
    before = await indexes(harness)

    async with rebuilding(harness, leader, NAME, OTHER_NAME):
        await until_rebuilt(harness, OTHER_NAME)
        after = await indexes(harness)
        await harness.fetch(f"DROP INDEX /* schema */{leftover}")
        await until_rebuilt(harness, NAME)

    assert {name: after[name] for name in (NAME, leftover)} == {
        name: before[name] for name in (NAME, leftover)
    }


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_stop_during_a_rebuild_leaves_the_old_index(harness: Harness, leader: Language) -> None:
    """37: Both languages end the rebuild, drop the unfinished index, and keep the old one."""
    before = await indexes(harness)

    async with (
        asyncio.timeout(GENEROUS_SECONDS),
        asyncio.TaskGroup() as group,
        contextlib.AsyncExitStack() as writing,
    ):
        await writing.enter_async_context(writer(harness))  # before the first rebuild can begin
        async with rebuilding(harness, leader, NAME) as stop, writing:
            await until_half_made(harness)
            stopping = group.create_task(stop())
            await until_no_rebuild_runs(harness)
        await stopping

    assert await indexes(harness) == before


@pytest.mark.parametrize(("first", "second"), BOTH_WAYS)
async def test_leader_skips_an_index_that_another_leader_rebuilds(
    harness: Harness, first: Language, second: Language
) -> None:
    """37: While two languages lead at once, the second skips the index that the first rebuilds and does the rest."""
    async with rebuilding(harness, first, NAME), writer(harness):
        await until_half_made(harness)
        before = await indexes(harness)
        await harness.fetch("DELETE FROM /* schema */river_leader")
        async with rebuilding(harness, second, NAME, OTHER_NAME):
            await until_rebuilt(harness, OTHER_NAME)
            during = await indexes(harness)

    assert during.keys() == before.keys()
    assert during[NAME] == before[NAME]
    assert [name for name in await indexes(harness) if "_cc" in name] == []


@pytest.mark.parametrize("leader", LANGUAGES)
async def test_leader_rebuilds_the_rest_where_search_indexes_are_off(
    harness: Harness, leader: Language
) -> None:
    """37: A leader of either language passes by search indexes that are dropped, and rebuilds the others."""
    async with dropped_indexes(harness.driver.pool):
        async with rebuilding(harness, leader, *SEARCH_INDEXES, OTHER_NAME):
            await until_rebuilt(harness, OTHER_NAME)
        after = await indexes(harness)

    assert not after.keys() & SEARCH_INDEXES.keys()


async def tune(harness: Harness, *, is_wanted: bool) -> None:
    for step in await search_indexes.plan(harness.driver, is_wanted=is_wanted):
        await search_indexes.apply(harness.driver, step)


async def test_search_indexes_are_dropped_and_built_while_both_languages_work(harness: Harness) -> None:
    """37: Each job that is inserted meanwhile completes by its first attempt, in both languages."""
    before, ids = await indexes(harness), []
    async with harness.working("go"), harness.working("python"):
        for is_wanted in (False, True):
            async with asyncio.timeout(GENEROUS_SECONDS):
                tuning = asyncio.create_task(tune(harness, is_wanted=is_wanted))
                while not tuning.done():
                    ids += [await harness.control(language).insert(["output", 1]) for language in LANGUAGES]
                await tuning
        for id in ids:
            await harness.until_state(id, "completed")

    assert {(await harness.row(id))["attempt"] for id in ids} == {1}
    assert (await indexes(harness)).keys() == before.keys()
