"""Celery on Redis, which may lose the jobs of the last second."""

from __future__ import annotations

import sys
import time

import harness
import redis.asyncio
import system_program
from celery import Celery

SETTINGS = harness.settings()

app = Celery("bench", broker=harness.redis_url())
app.conf.update(broker_connection_retry_on_startup=True, task_ignore_result=True)
if "prefetch" in SETTINGS:
    app.conf.update(worker_prefetch_multiplier=SETTINGS["prefetch"])


@app.task(name="noop", ignore_result=True)
def noop(n: int) -> None:
    """The no-op job."""
    if milliseconds := SETTINGS.get("wait_ms", 0):
        time.sleep(milliseconds / 1000)
    harness.mark(n)


class OnCelery(harness.System):
    """`celery worker` with the options of the settings; results are not kept."""

    name = "celery"
    is_on_redis = True

    async def open(self) -> None:
        self._redis = redis.asyncio.from_url(harness.redis_url())

    async def close(self) -> None:
        await self._redis.aclose()

    async def insert(self, n: int) -> None:
        noop.delay(n)

    async def insert_many(self, numbers: range) -> None:
        for n in numbers:
            noop.delay(n)

    async def count_left(self) -> int:
        return int(await self._redis.llen("celery")) + int(await self._redis.hlen("unacked"))

    def command(self) -> list[str]:
        words = ["-m", "celery", "-A", "system_celery", "worker", "-l", "WARNING"]
        return [sys.executable, *words, *harness.settings().get("options", [])]


if __name__ == "__main__":
    import system_celery  # the name by which its worker imports this module

    system_program.main(system_celery.OnCelery())
