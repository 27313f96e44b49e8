"""Dramatiq on Redis, which may lose a second of what it was told."""

from __future__ import annotations

import sys
import time

import dramatiq
import harness
import redis.asyncio
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=harness.redis_url()))


@dramatiq.actor(actor_name="noop")
def noop(n: int) -> None:
    """What is worked."""
    if milliseconds := harness.settings().get("wait_ms", 0):
        time.sleep(milliseconds / 1000)
    harness.mark(n)


class OnDramatiq(harness.System):
    """`dramatiq` with the options that the settings say, and its default middleware."""

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
    import system_dramatiq  # by which name its worker imports it

    harness.main(system_dramatiq.OnDramatiq())
