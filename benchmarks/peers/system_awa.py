"""Awa's Python client on its Rust engine, whose tables are partitions that it truncates in turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import awa
import harness
import psycopg
import system_program

QUEUE = "default"
# Awa truncates a partition some seconds after its last job, and adds what was in it to a count.
COMPLETED = (
    "SELECT (SELECT coalesce(sum(completed_count), 0) FROM awa.receipt_completion_batches) + "
    "(SELECT coalesce(sum(pruned_completed_count), 0) FROM awa.queue_terminal_rollups)"
)


@dataclass
class Noop:
    """The args of the no-op job."""

    n: int


class OnAwa(harness.System):
    """One queue, with the workers, claimers and claim batches of the settings."""

    name = "awa"

    async def set_up(self) -> None:
        client = awa.AsyncClient(_url())
        await client.migrate()
        await client.install_queue_storage()
        await client.close()

    async def open(self) -> None:
        self._client = awa.AsyncClient(_url())
        self._connection = await psycopg.AsyncConnection.connect(harness.database_url(), autocommit=True)
        self._num_inserted = 0

    async def close(self) -> None:
        await self._client.close()
        await self._connection.close()

    async def insert(self, n: int) -> None:
        await self._client.insert(Noop(n))
        self._num_inserted += 1

    async def insert_many(self, numbers: range) -> None:
        await self._client.enqueue_many_copy([Noop(n) for n in numbers])
        self._num_inserted += len(numbers)

    async def count_left(self) -> int:
        return self._num_inserted - await self._number(COMPLETED)

    async def audit(self, num_jobs: int) -> None:
        found = await self._number(COMPLETED)
        if found != num_jobs:
            raise harness.Failed(f"each of {num_jobs:,} jobs must be completed once, got {found:,}")

    def work(self) -> None:
        harness.run(_work())

    async def _number(self, sql: str) -> int:
        found = await self._connection.execute(sql)  # type: ignore[arg-type] # our own text
        row = await found.fetchone()
        return int(row[0]) if row else 0


def _url() -> str:
    """Name a host, which its parser requires beside the directory of the socket."""
    return harness.database_url().replace("@/", "@localhost/")


async def _work() -> None:
    settings = harness.settings()
    seconds = settings.get("wait_ms", 0) / 1000
    queue = {name: settings[name] for name in ("claimers", "claim_batch_size") if name in settings}
    client = awa.AsyncClient(_url(), settings.get("pool", 10))

    @client.task(Noop, queue=QUEUE)
    async def noop(job: Any) -> None:  # noqa: ANN401 - Awa's
        harness.mark(job.args.n)
        if seconds:
            await asyncio.sleep(seconds)

    await client.start([{"name": QUEUE, "max_workers": settings.get("max_workers", 50), **queue}])
    await harness.stopped()
    await client.shutdown()
    await client.close()


if __name__ == "__main__":
    system_program.main(OnAwa())
