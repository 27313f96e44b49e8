"""Insert and work one job in a test's transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from sample_jobs import Act

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import JobCancel, JobSnooze, JobTimeout
from millhand.core.event import EventKind
from millhand.core.hooks import Middleware
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState, Json
from millhand.core.step import Cursor
from millhand.core.unique import UniqueOpts
from millhand.core.worker import Workers
from millhand.core.worker_job import Job
from millhand.testing import work, work_again

workers = Workers()


@workers.add(timeout=timedelta(milliseconds=50))
async def act(job: Job[Act]) -> None:
    match job.args.what:
        case "fail":
            raise LookupError("no such thing")
        case "snooze":
            raise JobSnooze(timedelta(hours=1))
        case "cancel":
            raise JobCancel("not wanted")
        case "wait":
            await asyncio.Event().wait()
    job.record_output(job.args.what)


@workers.add()
def resize(key: str, width: int) -> None: ...


@pytest.fixture
def client(url: str) -> Client:
    """A client that is not started."""
    return Client(url, Config(workers=workers))


@pytest.mark.parametrize(
    ("what", "event", "state", "error"),
    [
        ("x", EventKind.JOB_COMPLETED, JobState.COMPLETED, None),
        ("fail", EventKind.JOB_FAILED, JobState.AVAILABLE, LookupError),
        ("wait", EventKind.JOB_FAILED, JobState.AVAILABLE, JobTimeout),
        ("snooze", EventKind.JOB_SNOOZED, JobState.SCHEDULED, None),
        ("cancel", EventKind.JOB_CANCELLED, JobState.CANCELLED, None),
    ],
)
async def test_work_makes_the_attempt_of_a_client(
    client: Client,
    tx: asyncpg.Connection,
    what: str,
    event: EventKind,
    state: JobState,
    error: type[Exception] | None,
) -> None:
    """Event, row and error are those of a client's attempt, and nothing is raised."""
    worked = await work(client, Act(what), tx=tx)

    assert (worked.event, worked.job.state) == (event, state)
    assert isinstance(worked.error, error) if error else worked.error is None
    assert worked.job == await client.jobs.get(worked.job.id, tx=tx)
    assert worked.job.attempted_by == (client.id,)
    assert worked.job.metadata.get("output") == (what if state is JobState.COMPLETED else None)


async def test_work_again_makes_the_next_attempt(client: Client, tx: asyncpg.Connection) -> None:
    """Attempts and errors are counted up to the last one, without waiting for the retry."""
    opts = InsertOpts(max_attempts=2, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    first = await work(client, Act("fail"), opts, tx=tx)

    second = await work_again(client, first.job, tx=tx)

    assert (first.job.attempt, second.job.attempt, len(second.job.errors)) == (1, 2, 2)
    assert (second.job.state, second.event) == (JobState.DISCARDED, EventKind.JOB_FAILED)


async def test_work_calls_middleware(url: str, tx: asyncpg.Connection) -> None:
    """The middleware of the client's configuration is called."""

    class Note(Middleware):
        async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
            await call_next()
            job.set_metadata("noted", value=True)

    client = Client(url, Config(workers=workers, middleware=[Note()]))

    worked = await work(client, Act("x"), tx=tx)

    assert worked.job.metadata == {"noted": True, "output": "x"}


async def test_work_resumes_at_a_given_step(url: str, tx: asyncpg.Connection) -> None:
    """Steps that an earlier attempt completed are skipped, and a cursor has its stored value."""
    done: list[object] = []
    stepping = Workers()

    @stepping.add(kind="act")
    async def act(job: Job[Act]) -> None:
        async def one(cursor: Cursor) -> None:
            done.append(cursor.value)

        async def plain() -> None:
            done.append("plain")

        await job.step("first", plain)
        await job.step_cursor("second", one)
        await job.step("third", plain)

    client = Client(url, Config(workers=stepping))

    whole = await work(client, Act("x"), tx=tx)
    rest = await work(client, Act("x"), tx=tx, after_step="second", cursors={"second": 7})

    assert (whole.error, rest.error) == (None, None)
    assert done == ["plain", None, "plain", 7, "plain"]


async def test_work_rejects_a_duplicate(client: Client, tx: asyncpg.Connection) -> None:
    """A job that was skipped as a duplicate raises."""
    opts = InsertOpts(unique=UniqueOpts(by_args=True))
    first = await work(client, Act("x"), opts, tx=tx)

    with pytest.raises(
        AssertionError, match=rf"^job must be a new one .* got a duplicate of job {first.job.id}$"
    ):
        await work(client, Act("x"), opts, tx=tx)


async def test_work_raises_if_the_job_is_deleted(url: str, tx: asyncpg.Connection) -> None:
    """A job that deletes itself has no row to return."""
    deleting = Workers()

    @deleting.add(kind="act")
    async def act(job: Job[Act]) -> None:
        await tx.execute("DELETE FROM river_job WHERE id = $1", job.id)

    with pytest.raises(AssertionError, match=r"^job \d+ must be there when its attempt has ended, got none$"):
        await work(Client(url, Config(workers=deleting)), Act("x"), tx=tx)
