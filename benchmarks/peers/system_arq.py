"""arq on Redis, which may lose the jobs of the last second."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import harness
import system_program
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker, func


async def noop(_context: dict[str, Any], n: int) -> None:
    """The no-op job."""
    harness.mark(n)
    if milliseconds := harness.settings().get("wait_ms", 0):
        await asyncio.sleep(milliseconds / 1000)


class OnArq(harness.System):
    """The worker with `max_jobs` and `poll_delay` of the settings; results are not kept."""

    name = "arq"
    is_on_redis = True

    async def open(self) -> None:
        self._pool = await create_pool(RedisSettings.from_dsn(harness.redis_url()))

    async def close(self) -> None:
        await self._pool.aclose()

    async def insert(self, n: int) -> None:
        await self._pool.enqueue_job("noop", n=n)

    async def insert_many(self, numbers: range) -> None:
        for n in numbers:
            await self._pool.enqueue_job("noop", n=n)

    async def count_left(self) -> int:
        return int(await self._pool.zcard("arq:queue"))

    def work(self) -> None:
        logging.getLogger("arq").setLevel(logging.WARNING)
        harness.run(_work())


async def _work() -> None:
    options = {
        name: value for name, value in harness.settings().items() if name in ("max_jobs", "poll_delay")
    }
    redis = RedisSettings.from_dsn(harness.redis_url())
    worker = Worker([func(noop, keep_result=0)], redis_settings=redis, keep_result=0, **options)  # type: ignore[arg-type]
    await worker.async_run()


if __name__ == "__main__":
    system_program.main(OnArq())
