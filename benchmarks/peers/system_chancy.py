"""Chancy with its executor for coroutines."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import harness
import system_program
from chancy import Chancy, Queue, Worker, job


@job(queue="default")
async def noop(*, n: int) -> None:
    """The no-op job."""
    harness.mark(n)
    if milliseconds := harness.settings().get("wait_ms", 0):
        await asyncio.sleep(milliseconds / 1000)


def _app() -> Chancy:
    log = logging.getLogger("chancy.bench")
    log.setLevel(logging.WARNING)
    return Chancy(harness.database_url(), log=log)


class OnChancy(harness.System):
    """A queue of coroutines, with concurrency and polling of the settings."""

    name = "chancy"

    async def set_up(self) -> None:
        settings = harness.settings()
        options: dict[str, Any] = {
            name: settings[name]
            for name in ("concurrency", "eager_polling", "polling_interval")
            if name in settings
        }
        async with _app() as app:
            await app.migrate()
            await app.declare(Queue("default", executor=Chancy.Executor.Async, **options))

    async def open(self) -> None:
        self._app = _app()
        await self._app.__aenter__()

    async def close(self) -> None:
        await self._app.__aexit__(None, None, None)

    async def insert(self, n: int) -> None:
        await self._app.push(noop.job.with_kwargs(n=n))

    async def insert_many(self, numbers: range) -> None:
        jobs = [noop.job.with_kwargs(n=n) for n in numbers]
        async for _ in self._app.push_many(jobs, batch_size=harness.BATCH):
            pass

    async def count_left(self) -> int:
        async with self._app.pool.connection() as connection:
            found = await connection.execute(
                "SELECT 1 FROM chancy_jobs WHERE state NOT IN ('succeeded', 'failed') AND priority = 0 LIMIT 1"
            )
            return len(await found.fetchall())

    async def audit(self, num_jobs: int) -> None:
        async with self._app.pool.connection() as connection:
            found = await connection.execute(
                "SELECT count(*) AS jobs FROM chancy_jobs WHERE state = 'succeeded' AND priority = 0"
            )
            row = await found.fetchone()
        num_done = next(iter(row.values())) if isinstance(row, dict) else row[0]
        if num_done != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} jobs must have succeeded, got {num_done:,}")

    def history_sql(self, num_rows: int) -> str:
        return self._rows_sql(num_rows, "succeeded", "now()", 0)

    def backlog_sql(self, num_rows: int) -> str:
        return self._rows_sql(num_rows, "pending", "NULL", -1)

    def _rows_sql(self, num_rows: int, state: str, completed_at: str, priority: int) -> str:
        return (
            "INSERT INTO chancy_jobs (id, queue, func, kwargs, state, max_attempts, attempts, completed_at, "
            "priority) "
            "SELECT ('ffffffff-ffff-7fff-bfff-' || lpad(to_hex(n), 12, '0'))::uuid, 'default', 'system_chancy.noop', "
            f"jsonb_build_object('n', {harness.NUM_SLOTS - 1}), '{state}', 1, 0, {completed_at}, {priority} "
            f"FROM generate_series(1, {num_rows}) AS n"
        )

    def work(self) -> None:
        harness.run(_work())


async def _work() -> None:
    async with _app() as app, Worker(app) as worker:
        await worker.wait_for_shutdown()


if __name__ == "__main__":
    import system_chancy  # the name in the jobs' references

    system_program.main(system_chancy.OnChancy())
