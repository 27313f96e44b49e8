"""Oban for Python, which needs Python 3.12."""

from __future__ import annotations

import asyncio
from typing import Any

import harness
import psycopg
import system_program
from oban import Oban, worker
from oban.schema import install_sql
from psycopg_pool import AsyncConnectionPool


@worker(queue="default")
class Noop:
    """The no-op job."""

    async def process(self, job: Any) -> None:  # noqa: ANN401 - Oban's
        harness.mark(job.args["n"])
        if milliseconds := harness.settings().get("wait_ms", 0):
            await asyncio.sleep(milliseconds / 1000)


def _pool() -> AsyncConnectionPool:
    return AsyncConnectionPool(harness.database_url(), min_size=1, max_size=10, open=False)


class OnOban(harness.System):
    """One queue with the limit of the settings."""

    name = "oban"

    async def set_up(self) -> None:
        with psycopg.connect(harness.database_url(), autocommit=True) as connection:
            connection.execute(install_sql())

    async def open(self) -> None:
        self._pool = _pool()
        await self._pool.open()
        self._oban = Oban(pool=self._pool)

    async def close(self) -> None:
        await self._pool.close()

    async def insert(self, n: int) -> None:
        await self._oban.enqueue(Noop.new({"n": n}))

    async def insert_many(self, numbers: range) -> None:
        await self._oban.enqueue_many([Noop.new({"n": n}) for n in numbers])

    async def count_left(self) -> int:
        return len(
            await self._ask("SELECT 1 FROM oban_jobs WHERE state <> 'completed' AND priority = 0 LIMIT 1")
        )

    async def audit(self, num_jobs: int) -> None:
        [(found,)] = await self._ask(
            "SELECT count(*) FROM oban_jobs WHERE state = 'completed' AND attempt = 1 AND priority = 0"
        )
        if found != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} jobs must be completed once, got {found:,}")

    def history_sql(self, num_rows: int) -> str:
        return (
            "INSERT INTO oban_jobs (worker, args, state, attempt, completed_at, attempted_by) "
            "SELECT 'system_oban.Noop', jsonb_build_object('n', n), 'completed', 1, timezone('UTC', now()), '{x}' "
            f"FROM generate_series(1, {num_rows}) AS n"
        )

    def backlog_sql(self, num_rows: int) -> str:
        return (
            "INSERT INTO oban_jobs (worker, args, state, attempt, priority) "
            f"SELECT 'system_oban.Noop', jsonb_build_object('n', {harness.NUM_SLOTS - 1}), 'available', 0, 9 "
            f"FROM generate_series(1, {num_rows})"
        )

    def work(self) -> None:
        harness.run(_work())

    async def _ask(self, sql: str) -> list[tuple[Any, ...]]:
        async with self._pool.connection() as connection:
            found = await connection.execute(sql)  # type: ignore[arg-type] # our own text
            return await found.fetchall()


async def _work() -> None:
    pool = _pool()
    await pool.open()
    async with Oban(pool=pool, queues={"default": harness.settings().get("limit", 10)}):
        await harness.stopped()
    await pool.close()


if __name__ == "__main__":
    import system_oban  # the name in the jobs' references

    system_program.main(system_oban.OnOban())
