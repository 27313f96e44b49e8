"""Chancy with a queue's concurrency, which counts in each worker."""

from __future__ import annotations

import harness
import journal
import system_chancy
import system_program
from chancy import job


@job(queue="default")
async def limited(*, n: int) -> None:
    """The limited job."""
    await journal.work(n)


class LimitedChancy(system_chancy.OnChancy):
    """A queue of coroutines with the concurrency of the settings."""

    async def insert_many(self, numbers: range) -> None:
        jobs = [limited.job.with_kwargs(n=n) for n in numbers]
        async for _ in self._app.push_many(jobs, batch_size=harness.BATCH):
            pass


if __name__ == "__main__":
    import limited_chancy  # the name in the jobs' references

    system_program.main(limited_chancy.LimitedChancy())
