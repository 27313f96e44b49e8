"""What authors of workers test with: which jobs were inserted, and one job worked in a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from client_room import Act, Room

from millhand.client import Client
from millhand.config import Config
from millhand.errors import ConfigError, JobCancel, JobSnooze, JobTimeout
from millhand.event import EventKind
from millhand.hooks import Middleware
from millhand.insert_opts import InsertOpts
from millhand.job import Job, JobState, Json
from millhand.step import Cursor
from millhand.store.job_list import LIMIT_MAX
from millhand.testing import (
    require_inserted,
    require_many_inserted,
    require_not_inserted,
    work,
    work_again,
)
from millhand.unique import UniqueOpts
from millhand.worker import Workers

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
async def tx(room: Room) -> AsyncIterator[asyncpg.Connection]:
    """A transaction as a test of a user's would have: nothing of it stays."""
    connection = await asyncpg.connect(room.url)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


@pytest.fixture
async def client(room: Room) -> Client:
    """A client that was not started."""
    return Client(room.url, Config(workers=workers))


async def test_one_job_is_required_by_kind_class_function_or_args(
    client: Client, tx: asyncpg.Connection
) -> None:
    """The row that is there comes back, however it was asked for, and columns are compared that are named."""
    await client.insert(Act("x"), InsertOpts(queue="mail", tags=["abc"], priority=2), tx=tx)
    await client.insert(resize.args("a.png", width=80), tx=tx)

    by_class = await require_inserted(client, Act, tx=tx, queue="mail", tags=["abc"], priority=2)
    by_kind = await require_inserted(client, "act", tx=tx, state=JobState.AVAILABLE)
    by_args = await require_inserted(client, Act("x"), tx=tx)
    by_function = await require_inserted(client, resize, tx=tx, args={"key": "a.png", "width": 80})

    assert by_class == by_kind == by_args
    assert (by_class.args, by_function.kind) == ({"what": "x"}, "resize")


async def test_job_that_is_missing_is_told_with_what_is_there(client: Client, tx: asyncpg.Connection) -> None:
    """None of the kind, none that is so, several that are: each text shows what there is instead, the nearest first."""
    with pytest.raises(
        AssertionError, match=r"^one job 'act' must be inserted, got none of that kind, and no others$"
    ):
        await require_inserted(client, Act, tx=tx)
    await client.insert(resize.args("a.png", width=80), tx=tx)
    with pytest.raises(AssertionError, match=r"got none of that kind; there are 1 of 'resize'$"):
        await require_inserted(client, Act, tx=tx)
    far = await client.insert(Act("x" * 90 + "far" + "x" * 90), tx=tx)
    near = await client.insert(Act("y"), InsertOpts(queue="mail", tags=["abc"]), tx=tx)

    with pytest.raises(AssertionError) as raised:
        await require_inserted(client, Act("x" * 90 + "near"), tx=tx, queue="mail", tags=["abc"])

    long = f'"{"x" * 90}far{"x" * 6}…'
    assert str(raised.value) == (
        f"""one job 'act' args={{"what": "{"x" * 90}… queue="mail" tags=["abc"] must be inserted, got 2 of that kind """
        f"""that are not so, nearest first:
  job {near.job.id}, 'act' {{"what": "y"}}, available in queue 'mail'
      args.what: wanted "{"x" * 90}near", got "y"
  job {far.job.id}, 'act' {{"what": {long[:-10]}…, available in queue 'default'
      args.what: wanted …{"x" * 20}near", got …{"x" * 20}far{"x" * 77}…
      queue: wanted "mail", got "default"
      tags: wanted ["abc"], got []"""
    )
    await client.insert(Act("y"), tx=tx)
    with pytest.raises(
        AssertionError,
        match=r"""^one job 'act' args={"what": "y"} must be inserted, got 2:\n  job \d+, .*\n  job \d+, .*'$""",
    ):
        await require_inserted(client, Act("y"), tx=tx)


async def test_job_behind_more_than_a_page_of_others_is_found(client: Client, tx: asyncpg.Connection) -> None:
    """However many jobs of its kind there are, one that must not be there is told, and one that must be is found."""
    await client.insert_many_fast((Act("x") for _ in range(LIMIT_MAX)), tx=tx)
    last = (await client.insert(Act("y"), tx=tx)).job

    assert await require_inserted(client, Act("y"), tx=tx) == last
    with pytest.raises(
        AssertionError, match=r"^no job 'act' args=\{\"what\": \"y\"\} must be inserted, got 1:"
    ):
        await require_not_inserted(client, Act("y"), tx=tx)


async def test_job_that_is_not_to_be_there_is_told(client: Client, tx: asyncpg.Connection) -> None:
    """Others of its kind do no harm; the one that does is shown."""
    job = (await client.insert(Act("x"), tx=tx)).job
    await require_not_inserted(client, resize, tx=tx)
    await require_not_inserted(client, Act, tx=tx, queue="mail")
    await require_not_inserted(client, Act("y"), tx=tx)

    with pytest.raises(AssertionError) as raised:
        await require_not_inserted(client, Act, tx=tx, queue="default", state=JobState.AVAILABLE)

    assert str(raised.value) == (
        f"""no job 'act' queue="default" state=available must be inserted, got 1:
  job {job.id}, 'act' {{"what": "x"}}, available in queue 'default'"""
    )


async def test_several_jobs_are_required_in_their_order(client: Client, tx: asyncpg.Connection) -> None:
    """All jobs of the kinds that are named, and no others, in the order of their inserts; else both are shown."""
    await client.insert_many([Act("x"), resize.args("a.png", width=80), Act("y")], tx=tx)

    found = await require_many_inserted(client, Act("x"), resize, "act", tx=tx)

    assert [job.kind for job in found] == ["act", "resize", "act"]
    first, second, third = (job.id for job in found)
    for wrong in ((Act, resize), (Act, Act, resize)):
        with pytest.raises(AssertionError, match=r"must be inserted, in this order, got 3 of their kinds;"):
            await require_many_inserted(client, *wrong, tx=tx)
    with pytest.raises(AssertionError) as raised:
        await require_many_inserted(client, Act("z"), Act("y"), resize, tx=tx)
    assert str(raised.value) == (
        f"""3 jobs must be inserted, in this order, got 3 of their kinds; - is missing, + is not wanted, ! is different:
- 'act' args={{"what": "z"}}
! job {first}, 'act' {{"what": "x"}}, available in queue 'default'
      args.what: wanted "y", got "x"
  job {second}, 'resize' {{"key": "a.png", "width": 80}}, available in queue 'default'
+ job {third}, 'act' {{"what": "y"}}, available in queue 'default'"""
    )


async def test_places_inside_of_values_are_compared_one_by_one(
    client: Client, tx: asyncpg.Connection
) -> None:
    """A path leads to what is different; true is not 1, and what is missing is nothing."""
    await client.insert(Act("x"), InsertOpts(metadata={"a": [1, {"b": 1}], "more": [1]}), tx=tx)

    with pytest.raises(AssertionError) as raised:
        await require_inserted(client, Act, tx=tx, metadata={"a": [1, {"b": True}], "gone": None})

    assert str(raised.value).splitlines()[2:] == [
        "      metadata.a[1].b: wanted true, got 1",
        "      metadata.gone: wanted null, got nothing",
        "      metadata.more: wanted nothing, got [1]",
    ]


async def test_column_that_no_job_has_is_a_mistake(client: Client, tx: asyncpg.Connection) -> None:
    """A misspelt expectation is an error and not met by chance."""
    with pytest.raises(ConfigError, match=r"^what is expected of a job must be among args, .*, got 'quue'$"):
        await require_inserted(client, Act, tx=tx, quue="mail")


async def test_jobs_are_required_of_the_whole_database_without_a_transaction(room: Room) -> None:
    """What a client that was started has inserted is seen as well."""
    async with room.client(workers, queues={}) as client:
        await client.insert(Act("x"))

        job = await require_inserted(client, Act)

    assert job.args == {"what": "x"}


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
async def test_job_is_worked_as_the_client_would(
    client: Client,
    tx: asyncpg.Connection,
    what: str,
    event: EventKind,
    state: JobState,
    error: type[Exception] | None,
) -> None:
    """The event, the row and the error are those of the whole way, and nothing is raised."""
    worked = await work(client, Act(what), tx=tx)

    assert (worked.event, worked.job.state) == (event, state)
    assert isinstance(worked.error, error) if error else worked.error is None
    assert worked.job == await client.jobs.get(worked.job.id, tx=tx)
    assert worked.job.attempted_by == (client.id,)
    assert worked.job.metadata.get("output") == (what if state is JobState.COMPLETED else None)


async def test_job_is_worked_again_by_its_next_attempt(client: Client, tx: asyncpg.Connection) -> None:
    """Attempts and errors are counted on, up to the last one; what waits for an hour need not be waited for."""
    opts = InsertOpts(max_attempts=2, scheduled_at=datetime.now(UTC) + timedelta(hours=1))
    first = await work(client, Act("fail"), opts, tx=tx)

    second = await work_again(client, first.job, tx=tx)

    assert (first.job.attempt, second.job.attempt, len(second.job.errors)) == (1, 2, 2)
    assert (second.job.state, second.event) == (JobState.DISCARDED, EventKind.JOB_FAILED)


async def test_middleware_goes_around_a_job_that_a_test_works(room: Room, tx: asyncpg.Connection) -> None:
    """The configuration of the client is that of the attempt."""

    class Note(Middleware):
        async def work(self, job: Job[Json], call_next: Callable[[], Awaitable[None]]) -> None:
            await call_next()
            job.set_metadata("noted", value=True)

    client = Client(room.url, Config(workers=workers, middleware=[Note()]))

    worked = await work(client, Act("x"), tx=tx)

    assert worked.job.metadata == {"noted": True, "output": "x"}


async def test_job_is_worked_from_the_step_that_a_test_says(room: Room, tx: asyncpg.Connection) -> None:
    """Progress of an earlier attempt can be said: what it had done is left out, and a cursor is where it was."""
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

    client = Client(room.url, Config(workers=stepping))

    whole = await work(client, Act("x"), tx=tx)
    rest = await work(client, Act("x"), tx=tx, after_step="second", cursors={"second": 7})

    assert (whole.error, rest.error) == (None, None)
    assert done == ["plain", None, "plain", 7, "plain"]


async def test_duplicate_is_not_worked(client: Client, tx: asyncpg.Connection) -> None:
    """A job that was not inserted, because its like is there, is not what the test wants to work."""
    opts = InsertOpts(unique=UniqueOpts(by_args=True))
    first = await work(client, Act("x"), opts, tx=tx)

    with pytest.raises(
        AssertionError, match=rf"^job must be a new one .* got a duplicate of job {first.job.id}$"
    ):
        await work(client, Act("x"), opts, tx=tx)


async def test_job_that_deletes_itself_is_told(room: Room, tx: asyncpg.Connection) -> None:
    """A job that is gone when its attempt has ended has no row to show."""
    deleting = Workers()

    @deleting.add(kind="act")
    async def act(job: Job[Act]) -> None:
        await tx.execute("DELETE FROM river_job WHERE id = $1", job.id)

    with pytest.raises(AssertionError, match=r"^job \d+ must be there when its attempt has ended, got none$"):
        await work(Client(room.url, Config(workers=deleting)), Act("x"), tx=tx)
