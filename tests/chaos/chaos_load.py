"""
Inserts jobs at an even rate during a chaos run, by each way of inserting, and records the answers.

A batch without an answer is inserted as a whole or not at all. It is not retried.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import count, cycle

import asyncpg
from chaos_history import Call
from chaos_limits import limited
from chaos_plan import HELD_KIND, RETRIED_KIND, ChaosJob, plan
from chaos_ways import ANSWER_SECONDS, MANY, ONE_BY_ONE, PLAIN, UNANSWERED, WAYS, Ways, is_plain

from millhand.client import Client
from millhand.core.errors import NotFound
from millhand.db.driver.asyncpg_error import WIRE_ERRORS

BATCH_SIZE = 10
# So many batches in a row are not all without an answer.
ENOUGH_BATCHES = 20
SHARE_LONG = 0.08
SHARE_RETRIED = 0.03
LONG_MS = (5_000, 20_000)
CONTROL_SECONDS = 0.5
# What cancels and retries await.
CONTROLLED = """
SELECT 'cancel', id FROM river_job
WHERE kind = $1 AND finalized_at IS NULL AND NOT metadata ? 'cancel_attempted_at'
UNION ALL
SELECT 'retry', id FROM river_job WHERE kind = $2 AND state = 'cancelled'
"""


class Load:
    """
    Inserts the plan of a seed.

    `answers` has, for each job of the plan, the answer to each of its inserts: "inserted", "skipped" or "none". `errors`
    counts the errors in place of an answer. `inserts` has the same inserts with their instants, and `changes` the calls that
    changed a job, by its id. `by_way` counts the acknowledged ones by their way.
    """

    def __init__(self, seed: int, seconds: float, rate: float) -> None:
        self.answers: dict[int, list[str]] = {}
        self.changes: dict[int, list[Call]] = {}
        self.inserts: dict[int, list[Call]] = {}
        self.batches: list[tuple[str, list[int]]] = []
        self.errors: dict[str, int] = {}
        self.by_way: Counter[str] = Counter()
        self.ways: Sequence[str] = ()
        self._rate = rate
        self._seconds = seconds
        self.plan = [limited(_varied(job, seed), seed) for job in plan(seed, int(rate * seconds))]

    def missing_ways(self) -> list[str]:
        """Return the ways in which no insert was acknowledged, in sentences, if there were inserts enough for all."""
        is_enough = len(self.plan) > ENOUGH_BATCHES * BATCH_SIZE * len(WAYS)
        return [
            f"no insert by {way} was acknowledged" for way in self.ways if is_enough and not self.by_way[way]
        ]

    async def insert_all(self, ways: Ways) -> None:
        """Insert each batch when it is due, each in the next way, and its unique jobs again with the next batch."""
        self.ways = ways.names
        batches = [self.plan[n : n + BATCH_SIZE] for n in range(0, len(self.plan), BATCH_SIZE)]
        began_at = time.monotonic()
        again: list[ChaosJob] = []
        for batch, way in zip(batches, cycle(ways.names), strict=False):
            due_at = began_at + batch[0].n / self._rate
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))
            if time.monotonic() > began_at + self._seconds:
                break  # those that were due in an outage are left out
            await self._insert(ways, way, batch)
            if again:
                await self._insert_batch(ways, MANY, again)
            again = [job for job in batch if job.is_unique]
        self.plan = [job for job in self.plan if job.n in self.answers]

    async def _insert(self, ways: Ways, way: str, batch: Sequence[ChaosJob]) -> None:
        plain = [job for job in batch if way not in PLAIN or is_plain(job)]
        size = 1 if way in ONE_BY_ONE else BATCH_SIZE
        for n in range(0, len(plain), size):
            await self._insert_batch(ways, way, plain[n : n + size])
        if others := [job for job in batch if job not in plain]:
            await self._insert_batch(ways, MANY, others)

    async def _insert_batch(self, ways: Ways, way: str, batch: Sequence[ChaosJob]) -> None:
        answers = ["none"] * len(batch)
        sent_at = time.monotonic()
        try:
            answers = await ways.insert(way, batch)
            self.by_way[way] += len(batch)
        except UNANSWERED as error:
            self._note(error)
        for job, answer in zip(batch, answers, strict=True):
            self.answers.setdefault(job.n, []).append(answer)
            self.inserts.setdefault(job.n, []).append(_insert_call(answer, sent_at))
        if len(batch) > 1 and not any(job.is_unique for job in batch):
            self.batches.append((answers[0], [job.n for job in batch]))

    async def control_all(self, client: Client, ways: Ways, url: str) -> None:
        """Cancel and retry the jobs that wait for it, until this coroutine is cancelled."""
        for number in count():
            for name, id in await _uncontrolled(url):
                if name == "cancel":
                    await self._change(name, id, client.jobs.cancel)
                else:
                    await self._change(name, id, ways.retry if (id + number) % 2 else client.jobs.retry)
            await asyncio.sleep(CONTROL_SECONDS)

    async def _change(self, name: str, id: int, change: Callable[[int], Awaitable[object]]) -> None:
        call = Call(name=name, sent_at=time.monotonic(), is_certain=False)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await change(id)
            call = replace(call, answered_at=time.monotonic(), is_certain=True)
        except (NotFound, *UNANSWERED) as error:
            self._note(error)
        self.changes.setdefault(id, []).append(call)

    def _note(self, error: BaseException) -> None:
        self.errors[type(error).__name__] = self.errors.get(type(error).__name__, 0) + 1


def _insert_call(answer: str, sent_at: float) -> Call:
    name = "skip" if answer == "skipped" else "insert"
    if answer == "none":
        return Call(name=name, sent_at=sent_at, is_certain=False)
    return Call(name=name, sent_at=sent_at, answered_at=time.monotonic())


def _varied(job: ChaosJob, seed: int) -> ChaosJob:
    """Return the plan with some long jobs, and some that cancel themselves and are then retried."""
    chance = random.Random(f"{seed} {job.n}")  # noqa: S311 - a seed must give the same jobs again
    if job.kind == HELD_KIND or job.acts or job.snoozes:
        return job
    if not job.is_unique and job.delay_seconds is None and chance.random() < SHARE_RETRIED:
        return replace(job, kind=RETRIED_KIND, acts=("cancel",))
    if chance.random() >= SHARE_LONG:
        return job
    return replace(job, work_ms=chance.randint(*LONG_MS))


async def _uncontrolled(url: str) -> list[tuple[str, int]]:
    """Return the jobs that wait for a cancel or a retry; none if the database does not answer."""
    with contextlib.suppress(*WIRE_ERRORS):
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return [
                tuple(one) for one in await connection.fetch(CONTROLLED, HELD_KIND, RETRIED_KIND, timeout=5)
            ]
        finally:
            connection.terminate()
    return []
