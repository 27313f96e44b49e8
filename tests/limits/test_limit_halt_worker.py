"""Workers of a limit that halts, on a real database."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import pytest

from client_harness import GENEROUS, ClientHarness
from millhand.client import Client
from millhand.core.config import QueueConfig
from millhand.core.errors import JobCancel
from millhand.core.insert_opts import InsertOpts
from millhand.core.limit import Limit
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from served import until

NO_POLLS = timedelta(minutes=5)
POLL = timedelta(milliseconds=100)
HALT = Limit(in_order=True, halt=True, by_args=["account"])
ONCE = InsertOpts(max_attempts=1)


@dataclass(frozen=True)
class Book:
    kind: ClassVar[str] = "book"
    account: str
    number: int
    fails_until: int = 0


class Ledger:
    """Books in the order of the calls; a job fails until its attempt has a number, and at -1 cancels itself."""

    def __init__(self, harness: ClientHarness, poll: timedelta) -> None:
        self.booked: list[tuple[str, int]] = []
        self.client = self._client(harness, poll)

    def _client(self, harness: ClientHarness, poll: timedelta) -> Client:
        workers = Workers()

        @workers.add()
        async def book(job: Job[Book]) -> None:
            self.booked.append((job.args.account, job.args.number))
            if job.args.fails_until < 0:
                raise JobCancel("there is no such account")
            if job.attempt < job.args.fails_until:
                raise RuntimeError("not yet")

        return harness.client(
            workers,
            queues={"default": QueueConfig(max_workers=20, limit=HALT)},
            fetch_poll_interval=poll,
            leader_election=True,
        )

    async def until_halted(self, num: int) -> list[tuple[str, int | None]]:
        halted = await until(self.client.limits.halted, lambda found: len(found) == num)
        return [(one.key, one.halted_by) for one in halted]

    async def until_booked(self, num: int) -> list[tuple[str, int]]:
        async def look() -> list[tuple[str, int]]:
            await self.client.limits.list()
            return self.booked

        return await until(look, lambda booked: len(booked) >= num)


@pytest.mark.slow
async def test_account_stops_after_a_job_that_failed_finally_and_others_go_on(harness: ClientHarness) -> None:
    """A discarded job and one that cancels itself halt their accounts; a resume starts the next job without a poll."""
    ledger = Ledger(harness, NO_POLLS)
    async with asyncio.timeout(GENEROUS), ledger.client as client:
        jobs = await client.insert_many(
            [
                (Book("a", 1, fails_until=9), ONCE),
                Book("a", 2),
                Book("b", 1, fails_until=-1),
                Book("b", 2),
                Book("c", 1),
                Book("c", 2),
            ]
        )
        halted = await ledger.until_halted(2)
        before = sorted(await ledger.until_booked(4))
        resumed = await client.limits.resume("default", "a")
        after = sorted(await ledger.until_booked(5))
        left = await ledger.until_halted(1)

    assert sorted(halted) == [('["a"]', jobs[0].job.id), ('["b"]', jobs[2].job.id)]
    assert before == [("a", 1), ("b", 1), ("c", 1), ("c", 2)]
    assert (resumed.halted_by, after) == (None, [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2)])
    assert left == [('["b"]', jobs[2].job.id)]


@pytest.mark.slow
async def test_account_goes_on_when_the_retried_job_completes(harness: ClientHarness) -> None:
    """A retry starts the job before those that wait. It is discarded again, which halts again, and then it completes."""
    ledger = Ledger(harness, POLL)  # a retry sends no notification
    async with asyncio.timeout(GENEROUS), ledger.client as client:
        first, _ = await client.insert_many([(Book("a", 1, fails_until=3), ONCE), Book("a", 2)])
        halted = [await ledger.until_halted(1)]
        await client.jobs.retry(first.job.id)
        await ledger.until_booked(2)
        halted.append(await ledger.until_halted(1))
        await client.jobs.retry(first.job.id)
        booked = await ledger.until_booked(4)
        none = await ledger.until_halted(0)

    assert halted == [[('["a"]', first.job.id)]] * 2
    assert booked == [("a", 1), ("a", 1), ("a", 1), ("a", 2)]
    assert none == []
