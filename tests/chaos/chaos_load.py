"""
Inserts jobs at an even rate during a chaos run, by each way of inserting, and records the answers.

A batch without an answer is inserted as a whole or not at all. It is not retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count

import asyncpg
from chaos_limits import limited
from chaos_plan import HELD_KIND, ChaosJob, now, plan

from millhand.args.codec import RawArgs
from millhand.client import Client
from millhand.driver.asyncpg_error import WIRE_ERRORS
from millhand.errors import DriverError, MillhandError, NotFound, OperationTimeout
from millhand.insert_opts import InsertOpts
from millhand.unique import UniqueOpts

BATCH_SIZE = 10
SHARE_LONG = 0.08
LONG_MS = (5_000, 20_000)
CANCEL_SECONDS = 0.5
WAYS = ("one by one", "many", "bulk")


class Load:
    """
    Inserts the plan of a seed.

    `answers` has, for each job of the plan, the answer to each of its inserts: "inserted", "skipped" or "none". `errors`
    counts the errors in place of an answer.
    """

    def __init__(self, seed: int, seconds: float, rate: float) -> None:
        self.answers: dict[int, list[str]] = {}
        self.batches: list[tuple[str, list[int]]] = []
        self.errors: dict[str, int] = {}
        self.num_cancels = 0
        self._rate = rate
        self._seconds = seconds
        self.plan = [limited(_lengthened(job, seed), seed) for job in plan(seed, int(rate * seconds))]

    async def insert_all(self, client: Client) -> None:
        """Insert each batch when it is due, and its unique jobs again with the next batch."""
        batches = [self.plan[n : n + BATCH_SIZE] for n in range(0, len(self.plan), BATCH_SIZE)]
        began_at = time.monotonic()
        again: list[ChaosJob] = []
        for number, batch in enumerate(batches):
            await asyncio.sleep(max(0.0, began_at + number * BATCH_SIZE / self._rate - time.monotonic()))
            if time.monotonic() > began_at + self._seconds:
                break  # those that were due in an outage are left out
            await self._insert(client, WAYS[number % len(WAYS)], batch)
            if again:
                await self._insert(client, "many", again)
            again = [job for job in batch if job.is_unique]
        self.plan = [job for job in self.plan if job.n in self.answers]

    async def _insert(self, client: Client, way: str, batch: Sequence[ChaosJob]) -> None:
        if way == "one by one" or (way == "bulk" and any(job.is_unique for job in batch)):
            for job in batch:
                await self._insert_batch(client, "many", [job])
        else:
            await self._insert_batch(client, way, batch)

    async def _insert_batch(self, client: Client, way: str, batch: Sequence[ChaosJob]) -> None:
        inserted = [_inserted(job) for job in batch]
        answers = ["none"] * len(batch)
        try:
            if way == "bulk":
                await client.insert_many_fast(inserted)
                answers = ["inserted"] * len(batch)
            else:
                results = await client.insert_many(inserted)
                answers = ["skipped" if one.unique_skipped_as_duplicate else "inserted" for one in results]
        except (DriverError, OperationTimeout) as error:
            self.errors[type(error).__name__] = self.errors.get(type(error).__name__, 0) + 1
        for job, answer in zip(batch, answers, strict=True):
            self.answers.setdefault(job.n, []).append(answer)
        if len(batch) > 1 and not any(job.is_unique for job in batch):
            self.batches.append((answers[0], [job.n for job in batch]))

    async def cancel_held(self, client: Client, url: str) -> None:
        """Cancel the jobs that wait for a cancellation, until this coroutine is cancelled."""
        sql = "SELECT id FROM river_job WHERE kind = $1 AND finalized_at IS NULL AND NOT metadata ? 'cancel_attempted_at'"
        for _ in count():
            with contextlib.suppress(*WIRE_ERRORS):
                connection = await asyncpg.connect(url, timeout=5)
                try:
                    ids = [record["id"] for record in await connection.fetch(sql, HELD_KIND, timeout=5)]
                finally:
                    connection.terminate()
                for id in ids:
                    await self._cancel(client, id)
            await asyncio.sleep(CANCEL_SECONDS)

    async def _cancel(self, client: Client, id: int) -> None:
        try:
            await client.jobs.cancel(id)
            self.num_cancels += 1
        except (DriverError, OperationTimeout, NotFound) as error:
            self._note(error)

    def _note(self, error: MillhandError) -> None:
        self.errors[type(error).__name__] = self.errors.get(type(error).__name__, 0) + 1


def _lengthened(job: ChaosJob, seed: int) -> ChaosJob:
    """Return the plan with some long jobs."""
    chance = random.Random(f"{seed} {job.n}")  # noqa: S311 - a seed must give the same jobs again
    if job.kind == HELD_KIND or job.acts or job.snoozes or chance.random() >= SHARE_LONG:
        return job
    return replace(job, work_ms=chance.randint(*LONG_MS))


def _inserted(job: ChaosJob) -> tuple[RawArgs, InsertOpts]:
    due_at = None if job.delay_seconds is None else now() + timedelta(seconds=job.delay_seconds)
    opts = InsertOpts(
        max_attempts=job.max_attempts,
        priority=job.priority,
        queue=job.queue,
        scheduled_at=due_at,
        unique=UniqueOpts(by_args=True) if job.is_unique else None,
    )
    return RawArgs(job.kind, json.dumps(job.args())), opts
