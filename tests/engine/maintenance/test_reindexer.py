"""Reindexing: indexes are rebuilt in use, and no artifact remains."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from dropped_indexes import dropped_indexes
from factory import GENEROUS_SECONDS, NOW, qualified
from millhand.core.config import REINDEXER_INDEX_NAMES, Config
from millhand.core.errors import ConfigError
from millhand.core.periodic import NeverSchedule
from millhand.core.worker import NO_TIMEOUT
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.index import SEARCH_INDEXES
from millhand.engine.maintenance.reindexer import Reindexer
from millhand.testing import ManualClock, Probe

NAME = "river_job_kind"
MIDNIGHT = Config().reindexer_schedule


def reindexer(
    driver: AsyncpgDriver, *names: str, clock: ManualClock | None = None, **settings: Any
) -> Reindexer:
    settings = {"schedule": NeverSchedule(), "timeout": timedelta(minutes=1), **settings}
    return Reindexer(driver.pool, clock=clock or ManualClock(NOW), index_names=names, **settings)


async def filenodes(driver: AsyncpgDriver) -> dict[str, int]:
    """Return the file of each index: a new one shows a rebuild."""
    sql = """
        SELECT class.relname, class.relfilenode
        FROM pg_class AS class
        WHERE class.relkind = 'i' AND class.relnamespace = $1::text::regnamespace
        AND class.relname LIKE 'river_job%'
    """
    return {row["relname"]: row["relfilenode"] for row in await driver.pool.fetch(sql, [driver.schema])}


def emitted(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str | None]]:
    return [
        (record.msg, record.index, getattr(record, "reason", None))  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "millhand.engine.maintenance.reindexer"
    ]


async def test_reindexer_rebuilds_every_index_of_the_job_table(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """Each index has a new file under the same name, and the log names each."""
    caplog.set_level(logging.INFO)
    before = await filenodes(schema_driver)

    await reindexer(schema_driver, *REINDEXER_INDEX_NAMES).run_once()

    after = await filenodes(schema_driver)
    assert set(after) == set(before) == set(REINDEXER_INDEX_NAMES)
    assert not set(after.values()) & set(before.values())
    assert emitted(caplog) == [("index rebuilt", name, None) for name in REINDEXER_INDEX_NAMES]


@pytest.mark.parametrize("suffix", ["_ccnew", "_ccold", "_ccnew12"])
async def test_reindexer_skips_an_index_with_an_artifact(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    """The artifact of another rebuild may be in use, so it is logged and not touched."""
    caplog.set_level(logging.INFO)
    name = NAME + suffix
    table = f'"{schema_driver.schema}".river_job'
    await schema_driver.pool.fetch(f"CREATE INDEX {name} ON {table} (kind)")
    before = await filenodes(schema_driver)

    await reindexer(schema_driver, NAME).run_once()

    after = await filenodes(schema_driver)
    await schema_driver.pool.fetch(f'DROP INDEX "{schema_driver.schema}".{name}')
    reason = f"{name} is left over from another rebuild; drop it if none is running"
    assert after == before
    assert emitted(caplog) == [("index not rebuilt", NAME, reason)]


async def test_reindexer_skips_an_index_that_does_not_exist(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong name, or a dropped index, does not prevent the rebuild of the others."""
    caplog.set_level(logging.INFO)

    await reindexer(schema_driver, "river_job_nowhere", NAME).run_once()

    assert emitted(caplog) == [
        ("index not rebuilt", "river_job_nowhere", "index does not exist"),
        ("index rebuilt", NAME, None),
    ]


async def test_reindexer_passes_by_search_indexes_that_are_off(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """A search index that an operator dropped is neither rebuilt nor logged, however often the reindexer passes."""
    caplog.set_level(logging.DEBUG, "millhand.engine.maintenance.reindexer")

    async with dropped_indexes(schema_driver.pool):
        await reindexer(schema_driver, *SEARCH_INDEXES).run_once()
        after = await filenodes(schema_driver)

    assert not after.keys() & SEARCH_INDEXES.keys()
    assert emitted(caplog) == []


async def test_reindexer_refuses_an_invalid_name(schema_driver: AsyncpgDriver) -> None:
    """The constructor raises before any SQL."""
    with pytest.raises(ConfigError) as raised:
        reindexer(schema_driver, 'x"; DROP TABLE river_job')

    assert str(raised.value) == (
        "index name must be letters, digits and underscores, at most 63, not a digit first, "
        "got 'x\"; DROP TABLE river_job'"
    )


async def test_reindexer_cleans_up_after_a_stop(schema_driver: AsyncpgDriver) -> None:
    """A stop does not wait for a rebuild, and the invalid index is dropped."""
    clock = ManualClock(NOW)
    service = reindexer(schema_driver, NAME, clock=clock, schedule=MIDNIGHT, timeout=NO_TIMEOUT)
    before = await filenodes(schema_driver)

    async with asyncio.timeout(GENEROUS_SECONDS), asyncio.TaskGroup() as group, writer(schema_driver):
        await service.start()
        clock.advance(timedelta(days=1))
        service.wake_event.set()
        await until_half_made(schema_driver)
        group.create_task(service.stop())
        await until_rebuild_is_gone(schema_driver)

    assert await filenodes(schema_driver) == before


@pytest.mark.slow
async def test_reindexer_cleans_up_after_a_timeout(
    schema_driver: AsyncpgDriver, caplog: pytest.LogCaptureFixture
) -> None:
    """The artifact of a rebuild that timed out is dropped, so the index can be rebuilt again."""
    caplog.set_level(logging.INFO)
    before = await filenodes(schema_driver)
    service = reindexer(schema_driver, NAME, timeout=timedelta(seconds=3))

    async with asyncio.timeout(GENEROUS_SECONDS), asyncio.TaskGroup() as group, writer(schema_driver):
        group.create_task(service.run_once())
        await until_half_made(schema_driver)
        await until_rebuild_is_gone(schema_driver)

    assert await filenodes(schema_driver) == before
    assert emitted(caplog) == [
        ("index not rebuilt", NAME, "index_reindex must answer within 3 s, got no answer"),
        ("index left over dropped", f"{NAME}_ccnew", None),
    ]


@asynccontextmanager
async def writer(driver: AsyncpgDriver) -> AsyncIterator[None]:
    """Hold a transaction open that has written: a rebuild waits for it half way."""
    async with driver.pool.begin() as tx:
        await tx.fetch(qualified("LOCK TABLE /* schema */river_job IN ROW EXCLUSIVE MODE", tx))
        yield


async def until_half_made(driver: AsyncpgDriver) -> None:
    while f"{NAME}_ccnew" not in await filenodes(driver):
        pass


async def until_rebuild_is_gone(driver: AsyncpgDriver) -> None:
    sql = """
        SELECT pid FROM pg_stat_activity
        WHERE state = 'active' AND query LIKE '%REINDEX INDEX CONCURRENTLY%' AND pid <> pg_backend_pid()
        AND datname = current_database()
    """
    while await driver.pool.fetch(sql):
        pass


async def test_reindexer_follows_its_schedule(schema_driver: AsyncpgDriver) -> None:
    """It rebuilds at midnight, and not before that midnight or the next."""
    clock = ManualClock(NOW)  # 10:34:56
    service = reindexer(schema_driver, clock=clock, schedule=MIDNIGHT)
    probe = Probe(service)
    await service.start()

    num_passes = []
    for hours in (13.0, 0.5, 22.5, 1.5):
        clock.advance(timedelta(hours=hours))
        service.wake_event.set()
        for _ in range(10):  # its turns: one for the wake, one for the pass
            await asyncio.sleep(0)
        num_passes.append(probe.num("passed"))
    await service.stop()

    assert num_passes == [0, 1, 1, 2]
