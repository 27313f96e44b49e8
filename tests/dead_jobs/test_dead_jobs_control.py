"""Claims about `client.dead`: a retry makes a job available exactly once, whatever dies, and whichever leader cleans."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from dead_jobs import Died, Dying, copier_of, dead_ids, delete_row, discard, until_blocked
from factory import get_job, insert_job, qualified
from lent_schema import GENEROUS_SECONDS
from millhand.core.config import Config
from millhand.core.errors import JobNotDiscarded, NotFound, UniqueConflict
from millhand.core.job import JobRow, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.control import DeadJobControl
from millhand.dead_jobs.dead_job import DeadJobFilters
from millhand.engine.store.job import job_delete_before
from millhand.sync_client import SyncClient

HOUR = timedelta(hours=1)
UNIQUE = {"unique_key": b"key", "unique_states": 0b11110101}


class DriverOf:
    """A driver whose pool is another one."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool


@pytest.fixture
def control(driver: AsyncpgDriver) -> DeadJobControl:
    return DeadJobControl(driver)


async def letter(executor: Executor, *, is_deleted: bool = True, **columns: Any) -> JobRow:
    """Return a discarded job that has a dead letter, and whose row was deleted."""
    job = await discard(executor, **columns)
    await copier_of(executor).run_once()
    if is_deleted:
        await delete_row(executor, job.id)
    return job


async def num_rows(executor: Executor) -> int:
    [row] = await executor.fetch(qualified("SELECT count(*) AS num FROM /* schema */river_job", executor))
    num: int = row["num"]
    return num


async def test_a_job_whose_row_was_deleted_is_inserted_again(
    control: DeadJobControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """It has its id, args, errors, tags and unique key, is available now, and has one attempt more."""
    before = await letter(
        tx,
        args='{"a": 1}',
        metadata='{"cancel_attempted_at": "x", "m": 1}',
        tags=["t"],
        queue="mail",
        **UNIQUE,
    )

    job = await control.retry(before.id, tx=connection)

    assert job == await get_job(tx, before.id)
    assert (job.state, job.attempt, job.max_attempts) == (JobState.AVAILABLE, 25, 26)
    assert (job.finalized_at, job.metadata) == (None, {"m": 1})
    kept = (
        "args",
        "attempted_by",
        "created_at",
        "errors",
        "kind",
        "priority",
        "queue",
        "tags",
        "unique_key",
        "unique_states",
    )
    assert {name: getattr(job, name) for name in kept} == {name: getattr(before, name) for name in kept}
    assert job.scheduled_at > before.scheduled_at
    assert await dead_ids(tx) == []


async def test_a_job_whose_row_is_there_is_retried(
    control: DeadJobControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """The row is made available as by `client.jobs.retry`, also if the job was discarded again since the copy."""
    before = await letter(tx, is_deleted=False)
    await tx.fetch(
        qualified(
            "UPDATE /* schema */river_job SET finalized_at = now() + interval '1 s', metadata = '{\"b\": 2}'",
            tx,
        )
    )

    job = await control.retry(before.id, tx=connection)

    assert (job.id, job.state, job.max_attempts, job.metadata) == (
        before.id,
        JobState.AVAILABLE,
        26,
        {"b": 2},
    )
    assert (await num_rows(tx), await dead_ids(tx)) == (1, [])


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.DISCARDED])
async def test_a_job_that_was_retried_by_other_means_is_not_retried(
    control: DeadJobControl, tx: Executor, connection: asyncpg.Connection, state: JobState
) -> None:
    """A job that waits, runs or has ended otherwise would run twice. The error names its state."""
    job = await letter(tx)
    await insert_job(tx, state, id=job.id)

    with pytest.raises(JobNotDiscarded) as raised:
        await control.retry(job.id, tx=connection)

    assert str(raised.value) == (
        f"job must be discarded or deleted to be retried from its dead letter, got job {job.id} {state}; "
        f"to run it again, use client.jobs.retry({job.id})"
    )
    assert (raised.value.id, raised.value.state) == (job.id, state)
    assert (await num_rows(tx), await dead_ids(tx)) == (1, [job.id])


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_a_unique_key_that_another_job_has_is_a_conflict(
    schema_driver: AsyncpgDriver, *, is_deleted: bool
) -> None:
    """Nothing changes then; when the other job is gone, the retry takes the key back."""
    pool = schema_driver.pool
    job = await letter(pool, is_deleted=is_deleted, **{**UNIQUE, "unique_states": 0b10000001})
    other = await insert_job(pool, **UNIQUE)
    control = DeadJobControl(schema_driver)

    with pytest.raises(UniqueConflict, match=f"got job {job.id} in conflict with another job"):
        await control.retry(job.id)
    left = await dead_ids(pool)
    await delete_row(pool, other.id)
    retried = await control.retry(job.id)

    assert (left, retried.unique_key) == ([job.id], b"key")


# A change of a row that is gone locks, restores and removes; of one that is there it retries or deletes that.
STATEMENTS = [
    (verb, is_deleted, number)
    for verb, is_deleted, num in (
        ("retry", True, 3),
        ("retry", False, 3),
        ("delete", True, 2),
        ("delete", False, 3),
    )
    for number in range(1, num + 1)
]


@pytest.mark.parametrize("is_sent", [True, False], ids=["answer lost", "not sent"])
@pytest.mark.parametrize(("verb", "is_deleted", "number"), STATEMENTS)
async def test_a_change_killed_at_any_statement_changes_nothing(
    schema_driver: AsyncpgDriver,
    postgres_url: str,
    verb: str,
    number: int,
    *,
    is_sent: bool,
    is_deleted: bool,
) -> None:
    """The dead letter is there, and the job not twice; the next call does it all."""
    pool = schema_driver.pool
    job = await letter(pool, is_deleted=is_deleted)
    before = await num_rows(pool)
    dying = Dying(pool, postgres_url, number, is_sent=is_sent)
    change = getattr(DeadJobControl(DriverOf(dying)), verb)  # type: ignore[arg-type]  # all that it uses

    with pytest.raises(Died):
        await change(job.id)
    after = (await num_rows(pool), await dead_ids(pool))
    await getattr(DeadJobControl(schema_driver), verb)(job.id)

    assert after == (before, [job.id])
    assert (await num_rows(pool), await dead_ids(pool)) == (1 if verb == "retry" else 0, [])


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_of_two_retries_at_once_one_inserts_the_job(
    schema_driver: AsyncpgDriver, *, is_deleted: bool
) -> None:
    """The second one finds no dead letter."""
    pool = schema_driver.pool
    job = await letter(pool, is_deleted=is_deleted)
    control = DeadJobControl(schema_driver)

    results = await asyncio.gather(*(control.retry(job.id) for _ in range(4)), return_exceptions=True)

    retried = [one for one in results if isinstance(one, JobRow)]
    refused = [one for one in results if isinstance(one, NotFound)]
    assert (len(retried), len(refused)) == (1, 3)
    assert str(refused[0]) == f"dead letter must exist, found none with id {job.id}"
    assert (await num_rows(pool), (await get_job(pool, job.id)).max_attempts) == (1, 26)


async def test_a_row_that_a_cleaner_deletes_at_this_moment_is_inserted_again(
    schema_driver: AsyncpgDriver,
) -> None:
    """The retry waits for the cleaner's transaction, and then finds no row."""
    pool = schema_driver.pool
    job = await letter(pool, is_deleted=False, finalized_at=datetime.now(UTC) - HOUR)
    async with pool.begin() as cleaning:
        num = await cleaning.run(
            job_delete_before(
                cancelled_horizon=None, completed_horizon=None, discarded_horizon=datetime.now(UTC), limit=10
            )
        )
        retrying = asyncio.create_task(DeadJobControl(schema_driver).retry(job.id))
        await until_blocked(pool, retrying)

    retried = await asyncio.wait_for(retrying, GENEROUS_SECONDS)

    assert (num, retried.state, await num_rows(pool), await dead_ids(pool)) == (1, JobState.AVAILABLE, 1, [])


async def test_a_change_within_a_transaction_is_undone_with_it(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """`tx=` makes a retry and a deletion a part of your transaction."""
    pool = schema_driver.pool
    control = DeadJobControl(schema_driver)
    job = await letter(pool)
    connection = await asyncpg.connect(postgres_url)
    try:
        for verb in (control.retry, control.delete):
            transaction = connection.transaction()
            await transaction.start()
            await verb(job.id, tx=connection)  # type: ignore[operator]  # both take these
            inside = await control.list(tx=connection)
            await transaction.rollback()
            assert inside.dead_jobs == ()
    finally:
        await connection.close()

    assert (await num_rows(pool), await dead_ids(pool)) == (0, [job.id])


async def test_delete_deletes_the_dead_letter_and_the_discarded_row(
    control: DeadJobControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """The next pass copies nothing again. The row of a job that was retried stays."""
    there, gone, retried = [await discard(tx) for _ in range(3)]
    await copier_of(tx).run_once()
    await delete_row(tx, gone.id)
    await tx.fetch(
        qualified(
            "UPDATE /* schema */river_job SET state = 'available', finalized_at = NULL WHERE id = $1", tx
        ),
        [retried.id],
    )

    deleted = [await control.delete(job.id, tx=connection) for job in (there, gone, retried)]
    await copier_of(tx).run_once()

    assert [one.job.id for one in deleted] == [there.id, gone.id, retried.id]
    assert await dead_ids(tx) == []
    assert await num_rows(tx) == 1
    with pytest.raises(NotFound, match=f"^dead letter must exist, found none with id {gone.id}$"):
        await control.delete(gone.id, tx=connection)


async def test_lists_find_by_kind_queue_error_and_time(
    control: DeadJobControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """All filters that are set must pass; the last discard comes first."""
    now = datetime.now(UTC)
    jobs = [
        await discard(tx, kind=kind, queue=queue, error=error, finalized_at=now - age * HOUR)
        for kind, queue, error, age in (
            ("send", "mail", "Connection TIMEOUT of a", 3),
            ("send", "bulk", "no such user", 2),
            ("pay", "mail", "timeout", 1),
        )
    ]
    await copier_of(tx).run_once()

    async def found(**filters: Any) -> list[int]:
        page = await control.list(DeadJobFilters(**filters), tx=connection)
        return [[job.id for job in jobs].index(one.job.id) for one in page.dead_jobs]

    assert await found() == [2, 1, 0]
    assert await found(kinds=["send"]) == [1, 0]
    assert await found(kinds=["send", "pay"], queues=["mail"]) == [2, 0]
    assert await found(kinds=[]) == []
    assert await found(error="timeout") == [2, 0]
    assert await found(error="%") == []
    assert await found(since=now - 2 * HOUR) == [2, 1]
    assert await found(until=now - 2 * HOUR) == [0]
    assert (await control.get(jobs[0].id, tx=connection)).job == jobs[0]


async def test_pages_follow_each_other(
    control: DeadJobControl, tx: Executor, connection: asyncpg.Connection
) -> None:
    """Jobs of the same instant are on one page each, and the last page has no cursor."""
    at = datetime.now(UTC)
    ids = [(await discard(tx, finalized_at=at)).id for _ in range(5)]
    await copier_of(tx).run_once()

    first = await control.list(limit=2, tx=connection)
    second = await control.list(limit=2, after=first.cursor, tx=connection)
    third = await control.list(limit=2, after=second.dead_jobs[-1], tx=connection)

    pages = [[one.job.id for one in page.dead_jobs] for page in (first, second, third)]
    assert pages == [ids[4:2:-1], ids[2:0:-1], ids[:1]]
    assert (first.cursor is not None, third.cursor) == (True, None)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"limit": 0}, "limit must be between 1 and 10,000, got 0"),
        ({"limit": 10_001}, "limit must be between 1 and 10,000, got 10001"),
        ({"after": "x"}, "cursor must be one that a list returned, got 'x'"),
        ({"after": "2026-03-01_7"}, "cursor must be one that a list returned, got '2026-03-01_7'"),
    ],
)
async def test_lists_refuse_invalid_parameters(
    control: DeadJobControl, wrong: dict[str, Any], text: str
) -> None:
    """The error names the parameter, the rule and the value."""
    with pytest.raises(ValueError) as raised:
        await control.list(**wrong)

    assert str(raised.value) == text


def test_filters_refuse_what_selects_too_much() -> None:
    """A text is a sequence of letters, every error contains the empty text, and an instant without zone is none."""
    with pytest.raises(TypeError) as text:
        DeadJobFilters(kinds="send")
    with pytest.raises(ValueError) as empty:
        DeadJobFilters(error="")
    with pytest.raises(ValueError) as naive:
        DeadJobFilters(since=datetime(2026, 3, 1))  # noqa: DTZ001 - refused

    assert str(text.value) == "kinds must be a list, got 'send'; write ['send']"
    assert str(empty.value) == "error must not be empty, got ''; leave it out to select any error"
    assert str(naive.value) == (
        "since must be an aware instant, got datetime.datetime(2026, 3, 1, 0, 0); write datetime(…, tzinfo=UTC)"
    )
    assert (DeadJobFilters().is_empty, DeadJobFilters(error="x").is_empty) == (True, False)


@pytest.mark.slow
async def test_a_sync_client_does_the_same(
    schema_driver: AsyncpgDriver, postgres_url: str, schema: str
) -> None:
    """`SyncClient.dead` lists, returns, retries and deletes."""
    pool = schema_driver.pool
    job, other = [await letter(pool) for _ in range(2)]

    def use() -> tuple[list[int], JobState, int]:
        with SyncClient(postgres_url, Config(schema=schema)) as client:
            listed = [one.job.id for one in client.dead.list().dead_jobs]
            retried = client.dead.retry(client.dead.get(job.id).job.id)
            return listed, retried.state, client.dead.delete(other.id).job.id

    assert await asyncio.to_thread(use) == ([other.id, job.id], JobState.AVAILABLE, other.id)
    assert await dead_ids(pool) == []
