"""The queues with priorities: urgent mail overtakes a newsletter, and reports run beside it."""

from __future__ import annotations

import asyncio

import pytest
from application import commands, run, started

from millhand import Client, JobFilters, JobRow, JobState
from served import until

pytestmark = pytest.mark.slow

QUEUES = "priority_queues"
NUM_READERS = 10_000


async def test_urgent_mail_overtakes_a_newsletter(url: str) -> None:
    """A receipt overtakes a newsletter in its queue, and so does a reset sent in the middle; a report runs beside it."""
    migrate, newsletter, work = commands(QUEUES)
    # So many that some still wait when a busy machine has run two commands.
    newsletter = newsletter.replace("2000", str(NUM_READERS))
    for command in (migrate, newsletter, "python -m mail receipt ada@example.com 7"):
        await run(QUEUES, command, DATABASE_URL=url)
    async with started(QUEUES, work, DATABASE_URL=url) as worker, Client(url) as client:
        receipt = await completed(client, "receipt")
        later = ("python -m mail report 2026-11", "python -m mail reset bob@example.com")
        await asyncio.gather(*[run(QUEUES, command, DATABASE_URL=url) for command in later])
        reset, report = await completed(client, "password_reset"), await completed(client, "report")
        code = await worker.stop()
        newsletters = (await client.jobs.list(JobFilters(kinds=["newsletter"]), limit=NUM_READERS)).jobs

    waiting = [row for row in newsletters if row.state is JobState.AVAILABLE]
    sent = sorted((began(row), row.id) for row in newsletters if row.state is JobState.COMPLETED)
    assert len(waiting) + len(sent) == NUM_READERS
    assert waiting, "the newsletter must take longer than two commands"
    assert began(receipt) <= sent[0][0]
    assert max(began(reset), began(report)) <= sent[-1][0]
    assert max(id for _, id in sent) < min(row.id for row in waiting)
    assert [(row.queue, row.priority) for row in (receipt, reset, report, waiting[0])] == [
        ("mail", 2),
        ("mail", 1),
        ("reports", 1),
        ("mail", 4),
    ]
    assert code == 0, worker.text


async def test_a_process_may_work_one_queue(url: str) -> None:
    """With `--queue reports:2`, a worker leaves the mail to others."""
    _, newsletter, work = commands(QUEUES)
    for command in (newsletter.replace("2000", "1"), "python -m mail report 2026-10 2026-11"):
        await run(QUEUES, command, DATABASE_URL=url)
    printed = await run(QUEUES, f"{work} --queue reports:2 --until-empty", DATABASE_URL=url)
    async with Client(url) as client:
        filters = JobFilters(kinds=["newsletter", "report"])
        states = {row.kind: row.state for row in (await client.jobs.list(filters)).jobs}

    assert states == {"newsletter": JobState.AVAILABLE, "report": JobState.COMPLETED}, printed


def began(job: JobRow) -> float:
    assert job.attempted_at is not None
    return job.attempted_at.timestamp()


async def completed(client: Client, kind: str) -> JobRow:
    """Return the only job of a kind, as soon as it is completed."""

    async def look() -> list[JobRow]:
        return (await client.jobs.list(JobFilters(kinds=[kind]))).jobs

    (job,) = await until(look, lambda rows: [row.state for row in rows] == [JobState.COMPLETED])
    return job
