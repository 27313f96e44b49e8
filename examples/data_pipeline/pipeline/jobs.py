"""The jobs: `millhand worker pipeline.jobs:config`. Plan a day, import each shop, then report the day."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import ClassVar
from zoneinfo import ZoneInfo

from millhand import Config, InsertOpts, Job, JobCancel, JobRow, UniqueOpts, Workers, cron
from pipeline import warehouse
from pipeline.partner import SHOPS, InvalidFile, download

ZONE = "Europe/Berlin"
# The same work is not queued twice, however often a day is planned. A cancelled job can be inserted again.
ONCE = InsertOpts(max_attempts=20, unique=UniqueOpts(by_args=True))

workers = Workers()


@dataclass(frozen=True)
class PlanDay:
    kind: ClassVar[str] = "plan_day"
    insert_opts: ClassVar[InsertOpts] = ONCE
    day: date


@dataclass(frozen=True)
class ImportShop:
    kind: ClassVar[str] = "import_shop"
    insert_opts: ClassVar[InsertOpts] = ONCE
    day: date
    shop: str


@dataclass(frozen=True)
class ReportDay:
    kind: ClassVar[str] = "report_day"
    insert_opts: ClassVar[InsertOpts] = ONCE
    day: date


class Doubling:
    """Retry after 1 s, 2 s, 4 s, …, then every hour: the partner may be down for a minute or for the night."""

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return now + min(timedelta(seconds=2 ** len(job.errors)), timedelta(hours=1))


@workers.add()
async def plan_day(job: Job[PlanDay]) -> None:
    """Insert a job for each shop: each is retried on its own, and they run side by side."""
    await job.client.insert_many([ImportShop(job.args.day, shop) for shop in SHOPS])


@workers.add(timeout=timedelta(minutes=5), retry=Doubling())
async def import_shop(job: Job[ImportShop]) -> None:
    """Import the sales of a shop; the last shop of a day inserts the job of the report."""
    day, shop = job.args.day, job.args.shop
    try:
        sales = await download(shop, day)  # an error of the network or the server is retried
    except InvalidFile as error:
        raise JobCancel(str(error)) from error  # a retry would read the same file
    async with await warehouse.connect() as connection:
        if await warehouse.load(connection, shop, day, sales) == len(SHOPS):
            await job.client.insert(ReportDay(day), tx=connection)
        await job.complete(tx=connection)


@workers.add()
async def report_day(job: Job[ReportDay]) -> None:
    """Report a day."""
    async with await warehouse.connect() as connection:
        await warehouse.report(connection, job.args.day)


def plan_yesterday() -> PlanDay:
    """Return the job of each night."""
    return PlanDay(datetime.now(ZoneInfo(ZONE)).date() - timedelta(days=1))


config = Config(
    workers=workers,
    queues={"default": 4},
    periodic_jobs=[
        cron(os.environ.get("PIPELINE_CRON", "0 3 * * *"), plan_yesterday, timezone=ZONE, id="plan_yesterday")
    ],
)
