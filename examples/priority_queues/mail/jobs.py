"""
The jobs: `millhand worker mail.jobs:config`.

A priority decides which job of a queue is next. A queue has slots of its own, which no other queue can take.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from millhand import Config, InsertOpts, Job, QueueConfig, Workers

logger = logging.getLogger(__name__)
workers = Workers()


@dataclass(frozen=True)
class PasswordReset:
    """A person waits for it: it overtakes everything else in the queue."""

    kind: ClassVar[str] = "password_reset"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="mail", priority=1, max_attempts=5)
    to: str


@dataclass(frozen=True)
class Receipt:
    kind: ClassVar[str] = "receipt"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="mail", priority=2)
    to: str
    order_id: int


@dataclass(frozen=True)
class Newsletter:
    """It can wait until no other mail does."""

    kind: ClassVar[str] = "newsletter"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="mail", priority=4)
    to: str
    issue: int


@dataclass(frozen=True)
class Report:
    """It takes long: in the queue of the mail, a few of them would take all slots, whatever their priority."""

    kind: ClassVar[str] = "report"
    insert_opts: ClassVar[InsertOpts] = InsertOpts(queue="reports")
    month: str


@workers.add(timeout=timedelta(seconds=30))
async def password_reset(job: Job[PasswordReset]) -> None:
    await send(job.args.to, "Reset your password")


@workers.add(timeout=timedelta(seconds=30))
async def receipt(job: Job[Receipt]) -> None:
    await send(job.args.to, f"Receipt for order {job.args.order_id}")


@workers.add(timeout=timedelta(seconds=30))
async def newsletter(job: Job[Newsletter]) -> None:
    await send(job.args.to, f"Newsletter {job.args.issue}")


@workers.add(timeout=timedelta(hours=1))
def report(job: Job[Report]) -> None:
    """Compute a report; a plain function runs in a thread, so that the mail goes on meanwhile."""
    total = sum(number * number for number in range(1_000_000))  # stands for slow work
    job.record_output({"month": job.args.month, "total": total})


async def send(to: str, subject: str) -> None:
    """Send a mail."""
    await asyncio.sleep(0.05)  # stands for your mail provider
    logger.info("mail sent", extra={"to": to, "subject": subject})


config = Config(
    workers=workers,
    queues={
        "mail": 4,  # as many at a time as the provider allows
        "reports": QueueConfig(max_workers=1, fetch_poll_interval=timedelta(seconds=5)),
    },
)
