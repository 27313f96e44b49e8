"""
Test jobs in a transaction that is rolled back, with time travel.

    pytest examples/testing_asyncpg.py

It needs pytest-asyncio. The fixtures create the database, on the server of DATABASE_URL if that is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import asyncpg
import pytest

from millhand import Client, Config, InsertOpts, Job, JobState, Workers, cron
from millhand.testing import Counts, drain, require_inserted, time_travel

# The application.
workers = Workers()


@dataclass(frozen=True)
class Remind:
    kind: ClassVar[str] = "remind"
    customer: str


@workers.add()
async def remind(job: Job[Remind]) -> None:
    if job.attempt == 1:
        raise ConnectionError("the mail server is unreachable")
    job.record_output(f"dear {job.args.customer}")


async def sign_up(client: Client, tx: asyncpg.Connection, customer: str) -> None:
    in_two_days = client.config.clock.now() + timedelta(days=2)
    await client.insert(Remind(customer), InsertOpts(scheduled_at=in_two_days), tx=tx)


# Its test.
@pytest.mark.asyncio
async def test_reminder_is_sent_after_two_days(
    millhand_database_url: str, millhand_tx: asyncpg.Connection
) -> None:
    """The reminder is scheduled, sent when it is due, and retried while the mail server is unreachable."""
    nightly = cron("0 3 * * *", Remind("everyone"))
    client = Client(millhand_database_url, Config(workers=workers, periodic_jobs=[nightly]))

    with time_travel(client, tx=millhand_tx, now=datetime(2026, 3, 2, 9, tzinfo=UTC)) as time:
        await sign_up(client, millhand_tx, "ann")
        await require_inserted(client, Remind("ann"), state=JobState.SCHEDULED)
        assert (await drain(client)).counts == Counts()

        worked = await time.work_for(days=2, minutes=1)

        assert worked.counts == Counts(completed=3, failed=3)  # two nights, and ann
        assert worked.worked[-1].job.output == "dear ann"
