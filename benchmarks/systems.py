"""The systems that benchmarks compare: Millhand and two baselines of bare asyncpg, each with an inserter and a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Protocol

import msgspec
from baseline import BASELINE_SLOTS, baseline_inserter, work_inline, work_tasks

from millhand.bench.noop_client import noop_inserter, noop_worker
from millhand.bench.workload import Tally


class Inserter(Protocol):
    """Inserts no-op jobs. Concurrency: `rates.INSERT_LANES` calls at once."""

    async def insert(self, n: int) -> None:
        """Insert the n-th job and wake the workers."""
        ...

    async def insert_many(self, numbers: Sequence[int]) -> None:
        """Insert jobs in one statement."""
        ...


# Takes URL and schema.
OpenInserter = Callable[[str, str], AbstractAsyncContextManager[Inserter]]
# Takes URL, schema, the number of jobs at once, and the tally to record them in; works until the block ends.
OpenWorker = Callable[[str, str, int, Tally], AbstractAsyncContextManager[None]]


class System(msgspec.Struct, frozen=True, kw_only=True):
    """One way to insert and work jobs. `slots` is its default number of jobs at once."""

    name: str
    about: str
    slots: int
    inserter: OpenInserter
    worker: OpenWorker


BASELINE_INLINE = System(
    name="baseline_inline",
    about="bare asyncpg: fetch a batch, call a function per row, complete the batch",
    slots=BASELINE_SLOTS,
    inserter=baseline_inserter,
    worker=work_inline,
)
BASELINE_TASKS = System(
    name="baseline_tasks",
    about="bare asyncpg: a task, a timeout, a slot, typed args and an event per job; fetch overlaps running jobs",
    slots=BASELINE_SLOTS,
    inserter=baseline_inserter,
    worker=work_tasks,
)
MILLHAND = System(
    name="millhand",
    about="a client with default settings",
    slots=100,
    inserter=noop_inserter,
    worker=noop_worker,
)

SYSTEMS: Mapping[str, System] = MappingProxyType(
    {system.name: system for system in (BASELINE_INLINE, BASELINE_TASKS, MILLHAND)}
)
