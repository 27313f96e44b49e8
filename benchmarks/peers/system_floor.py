"""The floor: River's tables worked by bare asyncpg in a page of Python. It has no leader, no retries and no error path."""

from __future__ import annotations

import contextlib

import harness
from system_millhand import SCHEMA, OnRiver

from millhand.bench.floor import FETCH_SIZE, FLOOR_SLOTS, floor_inserter, work_inline, work_life
from millhand.bench.workload import Tally


class _Marks(Tally):
    """Notes begins on the board."""

    def begin(self, n: int) -> None:
        harness.mark(n)


class FetchStart(OnRiver):
    """What asyncpg and PostgreSQL cost, with what any worker owes a job."""

    name = "floor"

    async def open(self) -> None:
        await super().open()
        self._stack = contextlib.AsyncExitStack()
        opened = floor_inserter(harness.database_url(), SCHEMA)
        self._inserter = await self._stack.enter_async_context(opened)

    async def close(self) -> None:
        await self._stack.aclose()
        await super().close()

    async def insert(self, n: int) -> None:
        await self._inserter.insert(n)

    async def insert_many(self, numbers: range) -> None:
        await self._inserter.insert_many(numbers)

    def work(self) -> None:
        harness.run(_work())


async def _work() -> None:
    settings, place = harness.settings(), (harness.database_url(), SCHEMA)
    slots = settings.get("workers", FLOOR_SLOTS)
    if settings.get("is_inline"):
        working = work_inline(*place, slots, _Marks(0))
    else:
        fetch_size, wait_seconds = settings.get("fetch", FETCH_SIZE), settings.get("wait_ms", 0) / 1000
        working = work_life(*place, slots, _Marks(0), fetch_size=fetch_size, wait_seconds=wait_seconds)
    async with working:
        await harness.stopped()


if __name__ == "__main__":
    harness.main(FetchStart())
