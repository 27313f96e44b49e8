"""DBOS, whose workers poll a queue and run each workflow in a thread or a task."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import harness
import psycopg
import system_program
from dbos import DBOS, DBOSClient, DBOSConfig

QUEUE = "noop"
VERSION = "1"


@DBOS.workflow(name="noop")
async def noop(n: int) -> None:
    """The no-op job, or one that waits."""
    harness.mark(n)
    if milliseconds := harness.settings().get("wait_ms", 0):
        await asyncio.sleep(milliseconds / 1000)


class OnDbos(harness.System):
    """A queue with the limits and the polling interval of the settings; one call of the client for each workflow."""

    name = "dbos"

    async def set_up(self) -> None:
        await asyncio.to_thread(_launch)
        await asyncio.to_thread(DBOS.destroy)

    async def open(self) -> None:
        self._client = DBOSClient(system_database_url=_url(), application_name="bench")
        self._connection = await psycopg.AsyncConnection.connect(harness.database_url(), autocommit=True)

    async def close(self) -> None:
        await asyncio.to_thread(self._client.destroy)
        await self._connection.close()

    async def insert(self, n: int) -> None:
        await self._client.enqueue_async(
            {"queue_name": QUEUE, "workflow_name": "noop", "app_version": VERSION}, n
        )

    async def insert_many(self, numbers: range) -> None:
        for n in numbers:
            await self.insert(n)

    async def count_left(self) -> int:
        return await self._count("status <> 'SUCCESS'")

    async def audit(self, num_jobs: int) -> None:
        found = await self._count("status = 'SUCCESS' AND coalesce(recovery_attempts, 1) = 1")
        if found != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} workflows must have succeeded once, got {found:,}")

    def work(self) -> None:
        harness.run(_work())

    async def _count(self, condition: str) -> int:
        sql = f"SELECT count(*) FROM dbos.workflow_status WHERE queue_name = '{QUEUE}' AND {condition}"
        found = await self._connection.execute(sql)  # type: ignore[arg-type] # our own text
        row = await found.fetchone()
        return int(row[0]) if row else 0


def _url() -> str:
    return harness.database_url().replace("postgresql://", "postgresql+psycopg://")


def _launch() -> None:
    settings: dict[str, Any] = harness.settings()
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": _url(),
        "application_version": VERSION,
        "executor_id": str(os.getpid()),
        "log_level": "WARNING",
    }
    if "pool" in settings:
        config["sys_db_pool_size"] = settings["pool"]
    DBOS(config=config)
    DBOS.launch()
    names = ("global_concurrency", "partition_concurrency", "polling_interval_sec", "worker_concurrency")
    DBOS.register_queue(QUEUE, **{name: settings[name] for name in names if name in settings})


async def _work() -> None:
    await asyncio.to_thread(_launch)
    await harness.stopped()
    await asyncio.to_thread(DBOS.destroy)


if __name__ == "__main__":
    import system_dbos  # the name under which the workflow is registered once

    system_program.main(system_dbos.OnDbos())
