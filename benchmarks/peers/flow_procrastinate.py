"""Procrastinate, which has no dependencies: its parts count themselves in a table of ours, in one of two ways."""

from __future__ import annotations

from typing import Any

import flow_journal
import flow_program
import flow_system
import harness
import procrastinate
import psycopg

SCHEMA = """
CREATE TABLE fan_out (id integer PRIMARY KEY, num_open integer NOT NULL);
CREATE TABLE fan_out_part (fan_out integer, n integer, PRIMARY KEY (fan_out, n));
"""
COUNT_DOWN = "UPDATE fan_out SET num_open = num_open - 1 WHERE id = %s RETURNING num_open"
END_PART = "DELETE FROM fan_out_part WHERE fan_out = %s AND n = %s"


class FlowProcrastinate(flow_system.FlowSystem):
    """Rows and jobs of a fan-out in one transaction; a periodic task retries the jobs of killed workers."""

    name = "procrastinate"

    async def set_up(self) -> None:
        with psycopg.connect(harness.database_url()) as connection:
            connection.execute(procrastinate.schema.SchemaManager.get_schema())  # type: ignore[arg-type]
            connection.execute(SCHEMA)

    async def open(self) -> None:
        self._app, self._part = _app()
        await self._app.open_async()

    async def close(self) -> None:
        await self._app.close_async()

    async def insert_fan_out(self, fan_out: int, num_parts: int) -> None:
        jobs = [{"fan_out": fan_out, "n": n} for n in range(num_parts)]
        async with self._app.connector.pool.connection() as connection:
            await connection.execute("INSERT INTO fan_out VALUES (%s, %s)", [fan_out, num_parts])
            await connection.execute(
                "INSERT INTO fan_out_part SELECT %s, generate_series(0, %s)", [fan_out, num_parts - 1]
            )
            await self._part.configure(connection=connection).batch_defer_async(*jobs)

    def work(self) -> None:
        harness.run(_work())


def _app() -> tuple[procrastinate.App, Any]:
    settings = harness.settings()
    connector = procrastinate.PsycopgConnector(
        conninfo=harness.database_url(), min_size=1, max_size=settings["pool"]
    )
    app = procrastinate.App(connector=connector)
    count = {"counter": _count, "rows": _count_rows}[settings["count"]]

    @app.task(name="callback", retry=True)
    async def callback(fan_out: int) -> None:
        flow_journal.call_back(fan_out)

    @app.task(name="part", retry=True)
    async def part(fan_out: int, n: int) -> None:
        await flow_journal.work(fan_out, n)
        await count(connector, callback, fan_out, n)

    @app.periodic(cron=settings["stalled_cron"])
    @app.task(name="retry_stalled", queueing_lock="retry_stalled", pass_context=True)
    async def retry_stalled(_context: Any, timestamp: int) -> None:  # noqa: ANN401, ARG001 - procrastinate's
        seconds = settings["stalled_seconds"]
        for job in await app.job_manager.get_stalled_jobs(seconds_since_heartbeat=seconds):
            await app.job_manager.retry_job(job)

    return app, part


async def _count(connector: procrastinate.PsycopgConnector, callback: Any, fan_out: int, _n: int) -> None:  # noqa: ANN401
    """Count down, and then defer the callback: a part that runs again counts again."""
    async with connector.pool.connection() as connection:
        num_open = await _counted_down(connection, fan_out)
    if num_open == 0:
        await callback.defer_async(fan_out=fan_out)


async def _count_rows(connector: procrastinate.PsycopgConnector, callback: Any, fan_out: int, n: int) -> None:  # noqa: ANN401
    """Delete the row of the part, count down and defer the callback, in one transaction."""
    async with connector.pool.connection() as connection:
        deleted = await connection.execute(END_PART, [fan_out, n])
        if not deleted.rowcount:
            return
        if await _counted_down(connection, fan_out) == 0:
            await callback.configure(connection=connection).defer_async(fan_out=fan_out)


async def _counted_down(connection: psycopg.AsyncConnection, fan_out: int) -> int:
    found = await connection.execute(COUNT_DOWN, [fan_out])
    [num_open] = await found.fetchone() or [0]
    return int(num_open)


async def _work() -> None:
    app, _ = _app()
    settings = harness.settings()
    async with app.open_async():
        await app.run_worker_async(concurrency=settings["concurrency"], **settings["worker"])


if __name__ == "__main__":
    flow_program.main(FlowProcrastinate())
