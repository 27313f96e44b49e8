"""Millhand through its public client, in the project's environment."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import harness
import system_program

from millhand import Client, Config, Job, QueueConfig, Workers
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema import search_indexes
from millhand.db.schema.migrator import Migrator, lines

SCHEMA = "public"


@dataclass(frozen=True)
class Noop:
    """The args of a job that does nothing, or waits for some milliseconds."""

    kind: ClassVar[str] = "noop"

    n: int


class OnRiver(harness.System):
    """A system that works River's tables."""

    @property
    def tables(self) -> str:
        return "river"

    async def set_up(self) -> None:
        driver = AsyncpgDriver(harness.database_url(), SCHEMA, pool_size=2)
        await driver.open()
        for line in lines():
            await Migrator(driver, line).up()
        await driver.close()

    async def open(self) -> None:
        # The planner would read a million finished rows to find that no other is left.
        url = f"{harness.database_url()}&enable_seqscan=off"
        self._driver = AsyncpgDriver(url, SCHEMA, pool_size=2)
        await self._driver.open()

    async def close(self) -> None:
        await self._driver.close()

    async def count_left(self) -> int:
        return len(
            await self._ask(
                "SELECT 1 FROM river_job WHERE queue = 'default' AND priority = 1 AND "
                "state IN ('available', 'pending', 'retryable', 'running', 'scheduled') LIMIT 1"
            )
        )

    async def audit(self, num_jobs: int) -> None:
        [found] = await self._ask(
            "SELECT count(*) AS jobs, "
            "count(*) FILTER (WHERE state = 'completed' AND attempt = 1 AND errors IS NULL) AS once "
            "FROM river_job WHERE priority = 1"
        )
        if set(found.values()) != {num_jobs}:
            raise harness.Failed(f"each of {num_jobs:,} jobs must be completed once, got {found}")

    def history_sql(self, num_rows: int) -> str:
        return (
            "INSERT INTO river_job (args, attempt, attempted_at, attempted_by, finalized_at, kind, max_attempts, state) "
            "SELECT jsonb_build_object('n', n), 1, now(), '{x}', now(), 'noop', 25, 'completed' "
            f"FROM generate_series(1, {num_rows}) AS n"
        )

    def backlog_sql(self, num_rows: int) -> str:
        return (
            "INSERT INTO river_job (args, kind, max_attempts, priority, scheduled_at) "
            f"SELECT jsonb_build_object('n', {harness.NUM_SLOTS - 1}), 'noop', 25, 4, now() "
            f"FROM generate_series(1, {num_rows})"
        )

    async def _ask(self, sql: str) -> list[dict[str, object]]:
        return await self._driver.pool.fetch(sql, timeout_seconds=120.0)


class Millhand(OnRiver):
    """A client with default settings, or with those of a variant."""

    name = "millhand"
    imports = "from millhand import Client, Config, Job, QueueConfig, Workers"

    @property
    def keeps_rows(self) -> bool:
        return "keep_completed" not in harness.settings()

    @property
    def tables(self) -> str:
        return "river_unsearched" if "search_indexes" in harness.settings() else "river"

    async def set_up(self) -> None:
        await super().set_up()
        if "search_indexes" in harness.settings():
            # As `millhand migrate tune --without-search-indexes` does.
            driver = AsyncpgDriver(harness.database_url(), SCHEMA, pool_size=2)
            await driver.open()
            for step in await search_indexes.plan(driver, is_wanted=False):
                await search_indexes.apply(driver, step)
            await driver.close()

    async def open(self) -> None:
        await super().open()
        self._client = Client(harness.database_url())
        await self._client.__aenter__()

    async def close(self) -> None:
        await self._client.__aexit__(None, None, None)
        await super().close()

    async def insert(self, n: int) -> None:
        await self._client.insert(Noop(n))

    async def insert_many(self, numbers: range) -> None:
        await self._client.insert_many([Noop(n) for n in numbers])

    async def insert_copy(self, numbers: range) -> None:  # type: ignore[override] # only Millhand has it
        await self._client.insert_many_fast([Noop(n) for n in numbers])

    def work(self) -> None:
        harness.run(_work())


async def _work() -> None:
    settings, workers = harness.settings(), Workers()
    seconds = settings.get("wait_ms", 0) / 1000
    if settings.get("is_plain"):

        @workers.add()
        def plain(job: Job[Noop]) -> None:
            time.sleep(seconds)
            harness.mark(job.args.n)

    else:

        @workers.add()
        async def noop(job: Job[Noop]) -> None:
            harness.mark(job.args.n)
            if seconds:
                await asyncio.sleep(seconds)

    queues = {"default": QueueConfig(max_workers=settings.get("workers", 100))}
    options: dict[str, Any] = {"queues": queues, "workers": workers}
    if "keep_completed" in settings:
        options["keep_completed"] = settings["keep_completed"]
    async with Client(harness.database_url(), Config(heartbeat_interval=None, **options)):
        await harness.stopped()


if __name__ == "__main__":
    system_program.main(Millhand())
