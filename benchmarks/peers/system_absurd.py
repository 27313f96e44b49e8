"""Absurd, whose worker claims tasks in batches and completes each with one statement."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import absurdctl
import harness
import psycopg
import system_program
from absurd_sdk import AsyncAbsurd

QUEUE = "default"
UNFINISHED = "state IN ('pending', 'running', 'sleeping')"


class OnAbsurd(harness.System):
    """The worker for coroutines, with concurrency and batch size of the settings."""

    name = "absurd"

    async def set_up(self) -> None:
        with psycopg.connect(harness.database_url(), autocommit=True) as connection:
            connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
            connection.execute("SELECT absurd.create_queue(%s)", [QUEUE])

    async def open(self) -> None:
        self._app = _app()
        self._connection = await psycopg.AsyncConnection.connect(harness.database_url(), autocommit=True)

    async def close(self) -> None:
        await self._app.close()
        await self._connection.close()

    async def insert(self, n: int) -> None:
        await self._app.spawn("noop", {"n": n})

    async def insert_many(self, numbers: range) -> None:
        for n in numbers:
            await self.insert(n)

    async def count_left(self) -> int:
        return await self._count(f"(SELECT FROM absurd.t_{QUEUE} WHERE {UNFINISHED} LIMIT 1)")

    async def audit(self, num_jobs: int) -> None:
        found = await self._count(f"absurd.t_{QUEUE} WHERE state = 'completed' AND attempts = 1")
        if found != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} tasks must be completed once, got {found:,}")

    def work(self) -> None:
        harness.run(_work())

    async def _count(self, rows: str) -> int:
        found = await self._connection.execute(f"SELECT count(*) FROM {rows}")  # type: ignore[arg-type]
        row = await found.fetchone()
        return int(row[0]) if row else 0


def _app() -> AsyncAbsurd:
    app = AsyncAbsurd(harness.database_url(), queue_name=QUEUE)
    seconds = harness.settings().get("wait_ms", 0) / 1000

    @app.register_task("noop")
    async def noop(params: Any, _context: Any) -> None:  # noqa: ANN401 - Absurd's
        harness.mark(params["n"])
        if seconds:
            await asyncio.sleep(seconds)

    return app


async def _work() -> None:
    app = _app()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, app.stop_worker)
    options = {
        name: value for name, value in harness.settings().items() if name in ("concurrency", "batch_size")
    }
    await app.start_worker(**options)
    await app.close()


if __name__ == "__main__":
    system_program.main(OnAbsurd())
