"""Splits the jobs of one COPY into batches, so that only one batch is in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeVar

from millhand.core.insert_opts import InsertOpts, jobs_in

T = TypeVar("T")

# With more a COPY is no faster, and with 500 other tasks of the event loop wait 10 ms (bench 2026-11).
BATCH_SIZE = 500

# Each is args, or a pair of args and options.
BulkJobs = Iterable[object] | AsyncIterable[object]
Pair = tuple[object, InsertOpts | None]


async def batched(jobs: BulkJobs) -> AsyncIterator[list[Pair]]:
    """Yield batches of up to `BATCH_SIZE` jobs; other tasks run between batches."""
    if isinstance(jobs, AsyncIterable):
        batch: list[Pair] = []
        async for job in jobs:
            batch.append(_pair(job))
            if len(batch) == BATCH_SIZE:
                yield batch
                batch = []
        if batch:
            yield batch
        return
    iterator = jobs_in(jobs)
    while batch := list(map(_pair, itertools.islice(iterator, BATCH_SIZE))):
        yield batch
        await asyncio.sleep(0)


async def with_first_ready(source: AsyncIterator[T]) -> AsyncIterator[T] | None:
    """Fetch the first item of `source` now and return an iterator over all; None if there is none."""
    try:
        first = await anext(source)
    except StopAsyncIteration:
        return None
    return _prepended(first, source)


async def _prepended(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    yield first
    async for one in rest:
        yield one


def _pair(job: object) -> Pair:
    return job if isinstance(job, tuple) else (job, None)
