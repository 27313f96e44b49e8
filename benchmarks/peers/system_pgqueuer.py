"""PgQueuer on one asyncpg connection, with durable tables."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import timedelta

import asyncpg
import harness
import system_program
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries


class Pgqueuer(harness.System):
    """`pgq.run` with the batch size of the settings."""

    name = "pgqueuer"

    async def set_up(self) -> None:
        connection = await asyncpg.connect(harness.database_url())
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    async def open(self) -> None:
        self._connection = await asyncpg.connect(harness.database_url())
        self._queries = Queries(AsyncpgDriver(self._connection))
        # Jobs of a backlog are older.
        self._last = await self._connection.fetchval("SELECT coalesce(max(id), 0) FROM pgqueuer")

    async def close(self) -> None:
        await self._connection.close()

    async def insert(self, n: int) -> None:
        await self._queries.enqueue("noop", json.dumps({"n": n}).encode(), 0)

    async def insert_many(self, numbers: range) -> None:
        payloads: list[bytes | None] = [json.dumps({"n": n}).encode() for n in numbers]
        await self._queries.enqueue(["noop"] * len(numbers), payloads, [0] * len(numbers))

    async def count_left(self) -> int:
        left = "SELECT 1 FROM pgqueuer WHERE id > $1 ORDER BY id LIMIT 1"
        return len(await self._connection.fetch(left, self._last))

    async def audit(self, num_jobs: int) -> None:
        found = await self._connection.fetchval(
            "SELECT count(DISTINCT job_id) FROM pgqueuer_log WHERE status = 'successful' AND priority = 0"
        )
        if found != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} jobs must have succeeded, got {found:,}")

    def history_sql(self, num_rows: int) -> str:
        return (
            "INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint, aggregated) "
            f"SELECT -n, 'successful', 0, 'noop', true FROM generate_series(1, {num_rows}) AS n"
        )

    def backlog_sql(self, num_rows: int) -> str:
        return (
            "INSERT INTO pgqueuer (priority, status, entrypoint, payload) "
            f"""SELECT -1, 'queued', 'noop', convert_to('{{"n": {harness.NUM_SLOTS - 1}}}', 'UTF8') """
            f"FROM generate_series(1, {num_rows})"
        )

    def work(self) -> None:
        harness.run(_work())


async def _work() -> None:
    settings = harness.settings()
    queue = PgQueuer.from_asyncpg_connection(await asyncpg.connect(harness.database_url()))
    seconds = settings.get("wait_ms", 0) / 1000

    @queue.entrypoint("noop")
    async def noop(job: object) -> None:
        harness.mark(json.loads(job.payload)["n"])  # type: ignore[attr-defined]
        if seconds:
            await asyncio.sleep(seconds)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    batch = {"batch_size": settings["batch_size"]} if "batch_size" in settings else {}
    await queue.run(dequeue_timeout=timedelta(seconds=30), **batch)


if __name__ == "__main__":
    system_program.main(Pgqueuer())
