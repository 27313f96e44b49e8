"""The baseline: River's tables worked by bare asyncpg, without a leader, retries or error handling."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import harness
import system_program
from system_millhand import SCHEMA, OnRiver

sys.path.append(str(Path(__file__).parents[1]))

from baseline import BASELINE_SLOTS, FETCH_SIZE, baseline_inserter, work_inline, work_tasks

from millhand.bench.workload import Tally


class _Marks(Tally):
    """Records each start on the harness's board."""

    def begin(self, n: int) -> None:
        harness.mark(n)


class Baseline(OnRiver):
    """Bare asyncpg on River's tables."""

    name = "baseline"

    async def open(self) -> None:
        await super().open()
        self._stack = contextlib.AsyncExitStack()
        opened = baseline_inserter(harness.database_url(), SCHEMA)
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
    slots = settings.get("workers", BASELINE_SLOTS)
    if settings.get("is_inline"):
        working = work_inline(*place, slots, _Marks(0))
    else:
        fetch_size, wait_seconds = settings.get("fetch", FETCH_SIZE), settings.get("wait_ms", 0) / 1000
        working = work_tasks(*place, slots, _Marks(0), fetch_size=fetch_size, wait_seconds=wait_seconds)
    async with working:
        await harness.stopped()


if __name__ == "__main__":
    system_program.main(Baseline())
