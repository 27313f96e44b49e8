"""Guard what traces cost an attempt that is not sampled: instructions are counted, which no other program changes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from instruction_counter import Counter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_OFF, ParentBasedTraceIdRatio, Sampler

from millhand.bench.workload import Noop
from millhand.contrib.opentelemetry import OpenTelemetry
from millhand.core.config import Config
from millhand.core.hooks import Middleware
from millhand.core.job import JobId, JobRow, JobState
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.engine.attempt import Attempt
from millhand.engine.job_executor import JobExecutor

pytestmark = pytest.mark.slow

NUM_ATTEMPTS = 100
# Half of them are those of any middleware. The executor alone takes some 1,000 for an attempt.
INSTRUCTIONS_MAX = 165


async def instructions_an_attempt(middleware: Sequence[Middleware]) -> float:
    """Return how many instructions the executor runs for an attempt."""
    workers, now = Workers(), datetime(2026, 1, 1, tzinfo=UTC)

    @workers.add()
    async def noop(job: Job[Noop]) -> None: ...

    async def handle(failure: object) -> bool:
        return False

    executor = JobExecutor(
        Config(workers=workers, middleware=middleware),
        client=None,
        hand_over=lambda *_: None,
        handle_failure=handle,
        on_stuck=lambda _: None,
    )
    row = JobRow(
        JobId(1), JobState.RUNNING, 1, 25, now, now, None, now, 1, '{"n": 1}', ("me",), (), "noop",
        {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, "default", (), None, None,
    )  # fmt: skip
    attempts = [Attempt(row) for _ in range(NUM_ATTEMPTS + 1)]
    await asyncio.create_task(executor.execute(attempts.pop()))  # what is imported and found at first
    counter = Counter()
    sys.settrace(counter.enter)
    try:
        for attempt in attempts:
            await asyncio.create_task(executor.execute(attempt))
    finally:
        sys.settrace(None)
        executor.close()
    return counter.num_instructions / NUM_ATTEMPTS


@pytest.mark.parametrize(
    "sampler", [DEFAULT_OFF, ParentBasedTraceIdRatio(1e-12)], ids=["off", "a small ratio"]
)
async def test_unsampled_attempt_pays_little(sampler: Sampler) -> None:
    """The middleware adds at most 165 instructions to an attempt that is not sampled, also if it has a context."""
    plain = await instructions_an_attempt([])
    traced = await instructions_an_attempt([OpenTelemetry(tracer_provider=TracerProvider(sampler))])

    assert traced - plain <= INSTRUCTIONS_MAX, f"{plain:.0f} instructions without, {traced:.0f} with"
