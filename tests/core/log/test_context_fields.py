"""The fields of the attempt in lines that a job logs."""

from __future__ import annotations

import asyncio
import contextvars

from millhand.core.log.context_fields import current_attempt, job_fields

FIELDS = {"job_id": 7, "kind": "act", "queue": "default", "attempt": 2}


async def test_attempt_is_named_in_its_tasks_and_threads_alone() -> None:
    """The fields are there in the attempt's task, in tasks and threads that it starts, and nowhere else."""
    seen: list[dict[str, object]] = []

    async def look() -> None:
        seen.append(job_fields())

    async def attempt() -> None:
        current_attempt.set((7, "act", "default", 2))
        await look()
        await asyncio.create_task(look())
        seen.append(await asyncio.to_thread(job_fields))

    await asyncio.create_task(attempt())
    outside = job_fields()

    assert seen == [FIELDS] * 3
    assert outside == {}
    assert contextvars.Context().run(job_fields) == {}
