"""DBOS with the concurrency of a queue or of its partitions, in all processes."""

from __future__ import annotations

import asyncio
from typing import Any

import harness
import journal
import system_dbos
import system_program
from dbos import DBOS

LANES = 8


@DBOS.workflow(name="limited")
async def limited(n: int) -> None:
    """The limited job."""
    await journal.work(n)


class LimitedDbos(system_dbos.OnDbos):
    """A queue with the limits of the settings."""

    async def insert_many(self, numbers: range) -> None:
        lanes = (self._insert_each(numbers[lane::LANES]) for lane in range(LANES))
        await asyncio.gather(*lanes)

    async def _insert_each(self, numbers: range) -> None:
        for n in numbers:
            options: dict[str, Any] = {
                "queue_name": system_dbos.QUEUE,
                "workflow_name": "limited",
                "app_version": system_dbos.VERSION,
            }
            if "partition_concurrency" in harness.settings():
                options["queue_partition_key"] = str(journal.key_of(n))
            await self._client.enqueue_async(options, n)


if __name__ == "__main__":
    import limited_dbos  # the name under which the workflow is registered once

    system_program.main(limited_dbos.LimitedDbos())
