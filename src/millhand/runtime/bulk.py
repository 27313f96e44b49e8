"""Many jobs on their way into one COPY: taken batch by batch, so that none but those of a batch are in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import TypeVar

from millhand.insert_opts import InsertOpts

T = TypeVar("T")

# 500: a COPY is as fast as with more, and the other tasks of the loop wait for 10 ms (bench 2026-11).
BATCH_SIZE = 500

# Each is args, or a pair of args and options.
BulkJobs = Iterable[object] | AsyncIterable[object]
Pair = tuple[object, InsertOpts | None]


async def batched(jobs: BulkJobs) -> AsyncIterator[list[Pair]]:
    """Give up to `BATCH_SIZE` jobs at a time, and let others have their turn between batches."""
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
    iterator = iter(jobs)
    while batch := list(map(_pair, itertools.islice(iterator, BATCH_SIZE))):
        yield batch
        await asyncio.sleep(0)


async def begun(source: AsyncIterator[T]) -> AsyncIterator[T] | None:
    """Have the first of `source` made now, and return all of them; None if there is none."""
    try:
        first = await anext(source)
    except StopAsyncIteration:
        return None
    return _chained(first, source)


async def _chained(first: T, rest: AsyncIterator[T]) -> AsyncIterator[T]:
    yield first
    async for one in rest:
        yield one


def _pair(job: object) -> Pair:
    return job if isinstance(job, tuple) else (job, None)
