"""The demo's jobs: one succeeds, one succeeds at the third attempt, one always fails."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from millhand import Config, InsertOpts, Job, JobRow, Workers, every

logger = logging.getLogger("demo")
workers = Workers()


class RetrySoon:
    """Retry after 2 s, 4 s and 6 s, so that a demo is short. The default is 1 s, 16 s, 81 s, 4 min, …."""

    def next_retry_at(self, job: JobRow, *, now: datetime) -> datetime:
        return now + job.attempt * timedelta(seconds=2)


@workers.add()
async def send_email(to: str) -> None:
    await asyncio.sleep(0.2)
    logger.info("email sent", extra={"to": to})


@dataclass(frozen=True)
class MakeThumbnail:
    kind: ClassVar[str] = "make_thumbnail"
    key: str


@workers.add(retry=RetrySoon())
def make_thumbnail(job: Job[MakeThumbnail]) -> None:  # a plain function: it runs in a thread
    if job.attempt < 3:
        raise ConnectionError("the image service is not reachable")
    logger.info("thumbnail made", extra={"key": job.args.key, "attempt": job.attempt})


@dataclass(frozen=True)
class PayInvoice:
    kind: ClassVar[str] = "pay_invoice"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(max_attempts=3)
    number: int


@workers.add(retry=RetrySoon())
async def pay_invoice(job: Job[PayInvoice]) -> None:
    raise ValueError(f"invoice {job.args.number} has no amount")


config = Config(
    workers=workers,
    queues={"default": 10},
    periodic_jobs=[every(timedelta(seconds=5), send_email.args("guest@example.com"), id="email")],
)
