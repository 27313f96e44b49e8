"""Rows so large that many of them time out in one fetch."""

from __future__ import annotations

import asyncio
import json

import pytest

from client_harness import Act, ClientHarness
from millhand.core.event import EventKind
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from proxy import proxied

NUM_JOBS = 30
SECONDS = 60.0
ARGS_BYTES = 200_000
BYTES_PER_SECOND = 500_000.0  # all of them take 12 s, and a fetch has ten


@pytest.mark.slow
async def test_rows_too_large_for_one_fetch_come_in_several(harness: ClientHarness) -> None:
    """After a fetch that timed out the next ones ask for fewer, and each job is worked once."""
    seen: list[int] = []
    workers = Workers()

    @workers.add()
    async def act(job: Job[Act]) -> None:
        seen.append(job.id)

    sql = (
        "INSERT INTO river_job (kind, args, max_attempts) "
        "SELECT 'act', $1::text::jsonb, 25 FROM generate_series(1, $2::integer)"
    )
    await harness.driver.pool.fetch(sql, [json.dumps({"what": "x" * ARGS_BYTES}), NUM_JOBS])
    async with proxied(harness.url) as proxy:
        proxy.narrow(BYTES_PER_SECOND)
        client = harness.client(workers, database=proxy.url, queues={"default": NUM_JOBS})
        with client.subscribe(EventKind.JOB_COMPLETED) as completions:
            async with client:
                for _ in range(NUM_JOBS):
                    await asyncio.wait_for(anext(completions), SECONDS)

    assert len(seen) == len(set(seen)) == NUM_JOBS
    assert {row.attempt for row in await harness.rows()} == {1}
