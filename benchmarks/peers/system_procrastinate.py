"""Procrastinate, whose worker fetches one job per query."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import harness
import procrastinate
import psycopg
import system_program


class OnProcrastinate(harness.System):
    """The worker for coroutines, with concurrency and pool of the settings."""

    name = "procrastinate"

    async def set_up(self) -> None:
        with psycopg.connect(harness.database_url()) as connection:
            connection.execute(procrastinate.schema.SchemaManager.get_schema())  # type: ignore[arg-type]

    async def open(self) -> None:
        self._app, self._noop = _app()
        await self._app.open_async()

    async def close(self) -> None:
        await self._app.close_async()

    async def insert(self, n: int) -> None:
        await self._noop.defer_async(n=n)

    async def insert_many(self, numbers: range) -> None:
        await self._noop.batch_defer_async(*({"n": n} for n in numbers))

    async def count_left(self) -> int:
        return len(
            await self._ask(
                "SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing') AND priority = 0 LIMIT 1"
            )
        )

    async def audit(self, num_jobs: int) -> None:
        [found] = await self._ask(
            "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status = 'succeeded' AND attempts = 1 AND priority = 0"
        )
        if found["jobs"] != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} jobs must have succeeded once, got {found['jobs']:,}")

    def history_sql(self, num_rows: int) -> str:
        return self._rows_sql(num_rows, "succeeded", 1, 0)

    def backlog_sql(self, num_rows: int) -> str:
        return self._rows_sql(num_rows, "todo", 0, -1)

    def work(self) -> None:
        harness.run(_work())

    def _rows_sql(self, num_rows: int, status: str, attempts: int, priority: int) -> str:
        return (
            "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, attempts, priority) "
            f"SELECT 'default', 'noop', jsonb_build_object('n', {harness.NUM_SLOTS - 1}), "
            f"'{status}', {attempts}, {priority} "
            f"FROM generate_series(1, {num_rows})"
        )

    async def _ask(self, sql: str) -> list[dict[str, Any]]:
        return await self._app.connector.execute_query_all_async(sql)


def _app() -> tuple[procrastinate.App, Any]:
    size = harness.settings().get("pool")
    sizes = {} if size is None else {"min_size": 1, "max_size": size}
    connector = procrastinate.PsycopgConnector(conninfo=harness.database_url(), **sizes)
    app = procrastinate.App(connector=connector)
    seconds = harness.settings().get("wait_ms", 0) / 1000
    if harness.settings().get("is_plain"):

        @app.task(name="noop")
        def plain(n: int) -> None:
            time.sleep(seconds)
            harness.mark(n)

        return app, plain

    @app.task(name="noop")
    async def noop(n: int) -> None:
        harness.mark(n)
        if seconds:
            await asyncio.sleep(seconds)

    return app, noop


async def _work() -> None:
    app, _ = _app()
    async with app.open_async():
        await app.run_worker_async(concurrency=harness.settings().get("concurrency", 1))


if __name__ == "__main__":
    system_program.main(OnProcrastinate())
