"""Dramatiq on Redis, which may lose the jobs of the last second."""

from __future__ import annotations

import sys
import time

import dramatiq
import harness
import redis.asyncio
import system_program
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=harness.redis_url()))


@dramatiq.actor(actor_name="noop")
def noop(n: int) -> None:
    """The no-op job."""
    if milliseconds := harness.settings().get("wait_ms", 0):
        time.sleep(milliseconds / 1000)
    harness.mark(n)


class OnDramatiq(harness.System):
    """`dramatiq` with the options of the settings and its default middleware."""

    name = "dramatiq"
    is_on_redis = True

    async def open(self) -> None:
        self._redis = redis.asyncio.from_url(harness.redis_url())

    async def close(self) -> None:
        await self._redis.aclose()

    async def insert(self, n: int) -> None:
        noop.send(n)

    async def insert_many(self, numbers: range) -> None:
        for n in numbers:
            noop.send(n)

    async def count_left(self) -> int:
        return int(await self._redis.hlen("dramatiq:default.msgs"))

    def command(self) -> list[str]:
        return [sys.executable, "-m", "dramatiq", "system_dramatiq", *harness.settings().get("options", [])]


if __name__ == "__main__":
    import system_dramatiq  # the name by which its worker imports this module

    system_program.main(system_dramatiq.OnDramatiq())
