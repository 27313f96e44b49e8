"""A DBOS workflow that enqueues its parts, awaits their results, and calls back in a step."""

from __future__ import annotations

import asyncio
import os

import flow_journal
import flow_program
import flow_system
import harness
from dbos import DBOS, DBOSClient, DBOSConfig

FLOWS, PARTS = "flows", "parts"
VERSION = "1"


@DBOS.workflow(name="part")
async def part(fan_out: int, n: int) -> None:
    """One part."""
    await flow_journal.work(fan_out, n)


@DBOS.step(name="callback")
async def callback(fan_out: int) -> None:
    """The callback."""
    flow_journal.call_back(fan_out)


@DBOS.workflow(name="fan_out")
async def fan_out(number: int, num_parts: int) -> None:
    """The workflow that waits for its parts."""
    handles = [await DBOS.enqueue_workflow_async(PARTS, part, number, n) for n in range(num_parts)]
    for handle in handles:
        await handle.get_result(polling_interval_sec=harness.settings()["polling_interval_sec"])
    await callback(number)


class FlowDbos(flow_system.FlowSystem):
    """Two queues with the settings; the place of a process is its executor ID, by which DBOS recovers its workflows."""

    name = "dbos"

    async def set_up(self) -> None:
        await asyncio.to_thread(_launch)
        await asyncio.to_thread(DBOS.destroy)

    async def open(self) -> None:
        self._client = DBOSClient(system_database_url=_url(), application_name="bench")

    async def close(self) -> None:
        await asyncio.to_thread(self._client.destroy)

    async def insert_fan_out(self, fan_out: int, num_parts: int) -> None:
        await self._client.enqueue_async(
            {"queue_name": FLOWS, "workflow_name": "fan_out", "app_version": VERSION}, fan_out, num_parts
        )

    def work(self) -> None:
        harness.run(_work())


def _url() -> str:
    return harness.database_url().replace("postgresql://", "postgresql+psycopg://")


def _launch() -> None:
    settings = harness.settings()
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": _url(),
        "application_version": VERSION,
        "executor_id": f"place {os.environ.get('BENCH_PLACE', 'of the inserter')}",
        "log_level": "WARNING",
    }
    DBOS(config=config)
    DBOS.launch()
    for queue in (FLOWS, PARTS):
        DBOS.register_queue(
            queue,
            worker_concurrency=settings["worker_concurrency"],
            polling_interval_sec=settings["polling_interval_sec"],
        )


async def _work() -> None:
    await asyncio.to_thread(_launch)
    await harness.stopped()
    await asyncio.to_thread(DBOS.destroy)


if __name__ == "__main__":
    import flow_dbos  # the name under which the workflows are registered once

    flow_program.main(flow_dbos.FlowDbos())
