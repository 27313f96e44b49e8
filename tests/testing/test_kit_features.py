"""Declared limits and schedules, holds, dead letters, secret args and blobs in a test's transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from sample_jobs import START, new_client

from millhand import Blob, Secret, SecretKeys
from millhand.client import Client
from millhand.core.config import QueueConfig
from millhand.core.insert_opts import InsertOpts
from millhand.core.limit import Limit, Rate
from millhand.core.schedule import JobSchedule
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.testing import Counts, drain, time_travel, work

CALLS = InsertOpts(queue="calls")
MINUTE = timedelta(minutes=1)
workers = Workers()


@workers.add(kind="call")
async def call(account: str) -> None:
    if account == "bad":
        raise ValueError(account)


@dataclass(frozen=True)
class Charge:
    kind: ClassVar[str] = "charge"
    image: Blob
    card: Annotated[str, Secret] = field(repr=False)


@workers.add(output=True)
async def charge(job: Job[Charge]) -> str:
    data = await job.client.blobs.get(job.args.image)
    return f"{job.args.card} {len(data)}"


async def insert(client: Client, *accounts: str, opts: InsertOpts = CALLS) -> None:
    await client.insert_many([(call.args(account), opts) for account in accounts])


@pytest.mark.slow
async def test_limit_that_only_a_config_declares_is_obeyed(url: str, any_tx: Any) -> None:
    """As at the start of a worker, what the code declares is written, and a change at run time stays."""
    limit = Limit(rate=Rate(1, per=MINUTE, burst=1))
    client = new_client(url, workers=workers, queues={"calls": QueueConfig(max_workers=10, limit=limit)})
    with time_travel(client, tx=any_tx, now=START) as travel:
        await insert(client, "a", "a", "a")

        assert (await drain(client)).counts == Counts(completed=1)
        assert (await travel.work_for(minutes=1)).counts == Counts(completed=1)
        await client.limits.set("calls", at_once=1, rate=None)
        assert (await drain(client)).counts == Counts(completed=1)


@pytest.mark.slow
async def test_schedule_that_only_a_config_declares_runs(url: str, any_tx: Any) -> None:
    """Its jobs are inserted at the instants that the clock passes after the declaration."""
    hourly = JobSchedule(id="hourly", args=call.args("a"), cron="0 * * * *")
    client = new_client(url, workers=workers, schedules=[hourly])
    with time_travel(client, tx=any_tx, now=START) as travel:
        assert (await travel.work_for(hours=3)).counts == Counts(completed=3)
        assert [one.schedule.id for one in await client.schedules.list()] == ["hourly"]


@pytest.mark.slow
async def test_hold_counts_from_the_travelled_clock(url: str, any_tx: Any) -> None:
    """A hold of a minute ends a minute later by the clock of the test, also years before that of the database."""
    client = new_client(url, workers=workers)
    with time_travel(client, tx=any_tx, now=START) as travel:
        await client.limits.set("calls", at_once=1)
        held = await client.limits.hold("calls", [], MINUTE)
        await insert(client, "a")

        assert held.held_until == START + MINUTE
        assert (await drain(client)).counts == Counts()
        [listed] = await client.limits.partitions("calls")
        assert listed.held_until == START + MINUTE
        assert (await travel.work_for(minutes=1)).counts == Counts(completed=1)


async def test_discarded_jobs_have_dead_letters(url: str, any_tx: Any) -> None:
    """After a drain and after `work`, each discarded job has a copy, which a retry runs again."""
    client = new_client(url, workers=workers)
    once = InsertOpts(max_attempts=1)
    with time_travel(client, tx=any_tx, now=START):
        await insert(client, "bad", "good", opts=once)
        [drained, _] = (await drain(client)).worked
        worked = await work(client, call.args("bad"), once)

        page = await client.dead.list()
        assert {dead.job.id for dead in page.dead_jobs} == {drained.job.id, worked.job.id}
        await client.dead.retry(worked.job.id)
        assert (await drain(client)).counts == Counts(discarded=1)


async def test_deleted_jobs_are_counted(url: str, tx: Any) -> None:
    """With `keep_completed=False`, the statistics have the jobs that the table has not."""
    client = new_client(url, workers=workers, keep_completed=False)
    with time_travel(client, tx=tx, now=START):
        await insert(client, "a", "b")
        await drain(client)

    rows = await tx.fetch(
        "SELECT began_at, kind, sum(completed) AS num FROM millhand_deleted_job_stats GROUP BY 1, 2"
    )
    assert [(row["began_at"], row["kind"], row["num"]) for row in rows] == [(START, "call", 2)]


async def test_secret_args_and_blobs_are_worked(url: str, any_tx: Any, tmp_path: Path) -> None:
    """The worker gets the plain value and the bytes, and the row has neither."""
    (tmp_path / "blobs").mkdir()
    keys = SecretKeys({"k": b"k" * 32})
    store = (tmp_path / "blobs").as_uri()
    client = new_client(url, workers=workers, secret_keys=keys, blob_store=store)
    image = await client.blobs.put(b"x" * 100_000)
    inserted = await client.insert(Charge(image=image, card="4000"), tx=any_tx)

    [one] = (await drain(client, tx=any_tx)).worked

    assert one.job.output == "4000 100000"
    assert "4000" not in inserted.job.encoded_args
    await client.blobs.aclose()


@pytest.mark.slow
async def test_bounds_of_a_client_and_of_all_partitions_are_obeyed(url: str, any_tx: Any) -> None:
    """`total` and `at_once_per_client` let one attempt at a time run, and each frees its slot for the next."""
    client = new_client(url, workers=workers)
    await client.limits.set("calls", total=1, at_once_per_client=1, by_args=["account"], tx=any_tx)
    await client.insert_many([(call.args(account), CALLS) for account in "aabc"], tx=any_tx)

    assert (await drain(client, tx=any_tx)).counts == Counts(completed=4)
    limit = await client.limits.get("calls", tx=any_tx)
    assert (limit.num_running, limit.limit.total) == (0, 1)
