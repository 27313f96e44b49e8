"""
Tests in a transaction that is rolled back: what was inserted, what its worker did, and three days in a moment.

    pytest examples/testing_asyncpg.py

needs pytest-asyncio; the database comes by itself, or is made beside that of DATABASE_URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import asyncpg
import pytest

from millhand import Client, Config, InsertOpts, Job, JobState, Workers, cron
from millhand.testing import Counts, drain, require_inserted, time_travel

# What an application has.
workers = Workers()


@dataclass(frozen=True)
class Remind:
    kind: ClassVar[str] = "remind"
    customer: str


@workers.add()
async def remind(job: Job[Remind]) -> None:
    if job.attempt == 1:
        raise ConnectionError("the mail server is away")
    job.record_output(f"dear {job.args.customer}")


async def sign_up(client: Client, tx: asyncpg.Connection, customer: str) -> None:
    in_two_days = client.config.clock.now() + timedelta(days=2)
    await client.insert(Remind(customer), InsertOpts(scheduled_at=in_two_days), tx=tx)


# And how it is tested.
@pytest.mark.asyncio
async def test_reminder_is_sent_after_two_days(
    millhand_database_url: str, millhand_tx: asyncpg.Connection
) -> None:
    """The reminder is scheduled, sent when its time has come, and tried again when the mail server is away."""
    nightly = cron("0 3 * * *", Remind("everybody"))
    client = Client(millhand_database_url, Config(workers=workers, periodic_jobs=[nightly]))

    with time_travel(client, tx=millhand_tx, now=datetime(2026, 3, 2, 9, tzinfo=UTC)) as time:
        await sign_up(client, millhand_tx, "ann")
        await require_inserted(client, Remind("ann"), state=JobState.SCHEDULED)
        assert (await drain(client)).counts == Counts()

        lived = await time.work_for(days=2, minutes=1)

        assert lived.counts == Counts(completed=3, failed=3)  # two nights, and ann
        assert lived.worked[-1].job.output == "dear ann"
