"""Millhand with a limit of a queue or of each key, or only with `max_workers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import harness
import journal
import system_millhand
import system_program

from millhand import Client, Config, Job, Limit, QueueConfig, Workers


@dataclass(frozen=True)
class Limited:
    """The args of a limited job."""

    kind: ClassVar[str] = "limited"

    n: int
    key: int


class LimitedMillhand(system_millhand.Millhand):
    """A queue with the limit of the settings."""

    async def insert_many(self, numbers: range) -> None:
        await self._client.insert_many([Limited(n, journal.key_of(n)) for n in numbers])

    def work(self) -> None:
        harness.run(_work())


async def _work() -> None:
    settings, workers = harness.settings(), Workers()

    @workers.add()
    async def limited(job: Job[Limited]) -> None:
        await journal.work(job.args.n)

    limit = Limit(**settings["limit"]) if "limit" in settings else None
    queues = {"default": QueueConfig(max_workers=settings["workers"], limit=limit)}
    async with Client(harness.database_url(), Config(queues=queues, workers=workers)):
        await harness.stopped()


if __name__ == "__main__":
    system_program.main(LimitedMillhand())
