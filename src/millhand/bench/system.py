"""What is measured: three systems, each with a way to insert and a way to work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import Protocol

import msgspec

from millhand.bench.engine import mill_inserter, work_mill
from millhand.bench.floor import FLOOR_SLOTS, floor_inserter, work_inline, work_life
from millhand.bench.workload import Tally


class Inserter(Protocol):
    """Concurrency: a few calls at once are fine."""

    async def insert(self, n: int) -> None:
        """Insert the n-th job, and have workers told of it."""
        ...

    async def insert_many(self, numbers: Sequence[int]) -> None:
        """Insert jobs in one statement."""
        ...


# Takes URL and schema.
OpenInserter = Callable[[str, str], AbstractAsyncContextManager[Inserter]]
# Takes URL, schema, how many jobs at once, and whom to tell; works until left.
OpenWorker = Callable[[str, str, int, Tally], AbstractAsyncContextManager[None]]


class System(msgspec.Struct, frozen=True, kw_only=True):
    """One way to insert and work jobs. `slots` are how many jobs at once, unless somebody says otherwise."""

    name: str
    about: str
    slots: int
    inserter: OpenInserter
    worker: OpenWorker


INLINE = System(
    name="floor_inline",
    about="bare asyncpg: fetch a batch, call a function per row, complete the batch",
    slots=FLOOR_SLOTS,
    inserter=floor_inserter,
    worker=work_inline,
)
LIFE = System(
    name="floor_life",
    about="bare asyncpg: a task, a timeout, a slot, typed args and an event per job; fetch overlaps running jobs",
    slots=FLOOR_SLOTS,
    inserter=floor_inserter,
    worker=work_life,
)
MILL = System(
    name="millhand",
    about="a client with default settings",
    slots=100,
    inserter=mill_inserter,
    worker=work_mill,
)

SYSTEMS: Mapping[str, System] = MappingProxyType({system.name: system for system in (INLINE, LIFE, MILL)})
