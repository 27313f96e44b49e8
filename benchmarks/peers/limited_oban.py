"""Oban for Python with a queue's limit, which counts in each process without Pro."""

from __future__ import annotations

from typing import Any

import journal
import system_oban
import system_program
from oban import worker


@worker(queue="default")
class Limited:
    """The limited job."""

    async def process(self, job: Any) -> None:  # noqa: ANN401 - Oban's
        await journal.work(job.args["n"])


class LimitedOban(system_oban.OnOban):
    """One queue with the limit of the settings."""

    async def insert_many(self, numbers: range) -> None:
        await self._oban.enqueue_many([Limited.new({"n": n}) for n in numbers])


if __name__ == "__main__":
    import limited_oban  # the name in the jobs' references

    system_program.main(limited_oban.LimitedOban())
