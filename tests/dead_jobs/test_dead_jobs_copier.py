"""The leader's copier of dead letters: one copy for each discard, whatever dies and whoever deletes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dead_jobs import Died, Dying, copier_of, dead_ids, dead_jobs, delete_row, discard
from factory import insert_job, qualified
from lent_schema import GENEROUS_SECONDS
from millhand.core.config import Config
from millhand.core.errors import OperationTimeout
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.capability import DeadJobs
from millhand.dead_jobs.copier import (
    FAILED_SECONDS,
    IDLE_SECONDS,
    LATE,
    PAGE_SIZE,
    UNSETTLED_SECONDS,
    DeadJobCopier,
)
from millhand.engine.maintenance.cleaners import JobCleaner
from millhand.engine.registration import Registration
from millhand.engine.services import keepers_of
from millhand.engine.store.job import job_retry
from millhand.testing import ManualClock

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SETTLED = "SELECT settled_to FROM /* schema */millhand_dead_job_cursor"


async def settle(executor: Executor, *, seen_ago: timedelta = HOUR) -> None:
    """Run passes until one settles what was discarded until five minutes before `seen_ago`."""
    await copier_of(executor).run_once()
    await executor.fetch(
        qualified(
            "UPDATE /* schema */millhand_dead_job_cursor SET settled_to = '-infinity', seen_at = now() - $1::interval",
            executor,
        ),
        [seen_ago],
    )
    # Transactions of other tests on the same server may have begun before.
    async with asyncio.timeout(GENEROUS_SECONDS):
        while (await settled_to(executor)).year < 2000:
            await copier_of(executor).run_once()


async def settled_to(executor: Executor) -> datetime:
    [row] = await executor.fetch(
        qualified(
            "SELECT greatest(settled_to, '0001-01-01Z') AS at FROM /* schema */millhand_dead_job_cursor",
            executor,
        )
    )
    at: datetime = row["at"]
    return at


async def test_discarded_jobs_are_copied_whole_and_others_are_not(tx: Executor) -> None:
    """A copy has every value of the row, and only jobs that are discarded have one."""
    job = await discard(
        tx,
        args='{"to": "a"}',
        attempted_at=datetime.now(UTC),
        attempted_by=["c1", "c2"],
        kind="send",
        metadata='{"m": 1}',
        priority=2,
        queue="mail",
        tags=["t"],
        unique_key=b"key",
        unique_states=0b10000000,
    )
    for state in JobState:
        if state is not JobState.DISCARDED:
            await insert_job(tx, state)

    await copier_of(tx).run_once()

    [dead] = await dead_jobs(tx)
    assert dead.job == job
    assert dead.current_state is JobState.DISCARDED
    assert dead.copied_at >= dead.job.created_at


async def test_a_second_pass_copies_nothing_twice(tx: Executor) -> None:
    """What was copied stays as it was, although the pass reads it again."""
    await discard(tx)
    await copier_of(tx).run_once()
    before = await dead_jobs(tx)
    copier = copier_of(tx)
    pages = []
    copier.probe = lambda moment, value=None: pages.append(value) if moment == "page" else None  # type: ignore[method-assign]

    await copier.run_once()

    assert await dead_jobs(tx) == before
    assert [(page.num_read, page.num_copied) for page in pages] == [(1, 0)]


async def test_a_job_that_is_discarded_again_has_its_last_discard(tx: Executor) -> None:
    """Each job has one dead letter; a second discard replaces the first, also with an earlier instant."""
    job = await discard(tx)
    await copier_of(tx).run_once()
    for at in (datetime.now(UTC) + HOUR, datetime.now(UTC) - timedelta(minutes=1)):
        await tx.fetch(
            qualified("UPDATE /* schema */river_job SET finalized_at = $1, attempt = attempt + 1", tx), [at]
        )
        await copier_of(tx).run_once()
        [dead] = await dead_jobs(tx)
        assert (dead.job.id, dead.job.finalized_at) == (job.id, at)


@pytest.mark.slow
async def test_a_pass_copies_page_by_page(tx: Executor) -> None:
    """Two full pages and a rest, many of the same instant, lose no job and copy none twice."""
    num_jobs = 2 * PAGE_SIZE + 3
    await tx.fetch(
        qualified(
            "INSERT INTO /* schema */river_job (kind, args, max_attempts, state, finalized_at) "
            "SELECT 'k', '{}', 1, 'discarded', now() - interval '1 s' * (n / 700) FROM generate_series(1, $1) AS n",
            tx,
        ),
        [num_jobs],
    )
    copied = []
    copier = copier_of(tx)
    copier.probe = lambda moment, value=None: copied.append(value) if moment == "page" else None  # type: ignore[method-assign]

    await copier.run_once()

    assert len(set(await dead_ids(tx))) == num_jobs
    assert [(page.num_read, page.num_copied) for page in copied] == [(1_000, 1_000), (1_000, 1_000), (3, 3)]


async def test_a_timeout_makes_the_pages_smaller(tx: Executor) -> None:
    """A pass that times out is followed by one with a quarter of the page, and a success doubles it."""
    limits = []

    class Slow:
        def __init__(self) -> None:
            self.fails = True

        @contextlib.asynccontextmanager
        async def begin(self) -> AsyncIterator[Any]:
            yield self

        async def run(self, query: Any) -> Any:
            if query.name == "dead_job_copy":
                limits.append(query.params["limit"])
                if self.fails:
                    raise OperationTimeout("dead_job_copy", 30.0)
            return await tx.run(query)

    slow = Slow()
    copier = copier_of(slow)
    for _ in range(2):
        with pytest.raises(OperationTimeout):
            await copier.run_once()
        assert copier.next_pause_seconds() == FAILED_SECONDS
    slow.fails = False
    await copier.run_once()
    await copier.run_once()

    assert limits == [PAGE_SIZE, PAGE_SIZE // 4, PAGE_SIZE // 16, 2 * (PAGE_SIZE // 16)]


@pytest.mark.parametrize("is_sent", [True, False], ids=["answer lost", "not sent"])
@pytest.mark.parametrize("number", range(1, 9))
async def test_a_copier_killed_at_any_statement_leaves_one_copy_for_each_discard(
    schema_driver: AsyncpgDriver, postgres_url: str, number: int, *, is_sent: bool
) -> None:
    """The next leader copies what is missing, also if it is killed at the same statement; the rows may go then."""
    pool = schema_driver.pool
    jobs = [await discard(pool) for _ in range(5)]
    for _ in range(2):
        dying = Dying(pool, postgres_url, number, is_sent=is_sent)
        with contextlib.suppress(Died):
            await copier_of(dying).run_once()
        assert dying.has_died is (number <= 7)  # shape, begin, settings, copy, end, two deletions

    await copier_of(pool).run_once()
    await delete_row(pool, *(job.id for job in jobs))
    await copier_of(pool).run_once()

    assert [one.job for one in await dead_jobs(pool)] == jobs


@pytest.mark.slow
async def test_copiers_at_once_with_random_kills_copy_each_discard_once(
    schema_driver: AsyncpgDriver, postgres_url: str
) -> None:
    """Three leaders at once, of which one dies at a random statement, while jobs are discarded and their rows deleted."""
    pool = schema_driver.pool
    rng = random.Random(7)  # noqa: S311 - chooses moments
    ids: list[int] = []
    for _ in range(10):
        ids += [(await discard(pool)).id for _ in range(4)]
        dying = Dying(pool, postgres_url, rng.randint(1, 7), is_sent=rng.random() < 0.5)

        # A kill ends all open transactions, also of the others.
        copiers = [copier_of(one) for one in (dying, pool, pool)]
        await asyncio.gather(*(copier.try_pass() for copier in copiers))
        copied = await dead_ids(pool)
        await delete_row(pool, *rng.sample(copied, min(2, len(copied))))
    await copier_of(pool).run_once()

    assert await dead_ids(pool) == sorted(ids)


async def test_a_late_commit_is_copied(schema_driver: AsyncpgDriver) -> None:
    """A discard that is committed after a pass with later discards has a dead letter, and nothing settles before it."""
    pool = schema_driver.pool
    async with pool.begin() as late:
        job = await discard(late, finalized_at=datetime.now(UTC) - HOUR)
        alone = copier_of(pool)  # its transaction is the only one that has written anything
        for _ in range(3):
            await alone.run_once()
        other = await discard(pool)
        for _ in range(3):
            await copier_of(pool).run_once()
        before = await dead_ids(pool)
        settled_before = await settled_to(pool)

    await copier_of(pool).run_once()

    assert (before, settled_before.year) == ([other.id], 1)
    assert await dead_ids(pool) == sorted([job.id, other.id])


async def test_a_pass_reads_nothing_before_what_is_settled(schema_driver: AsyncpgDriver) -> None:
    """What is older than a settled pass by five minutes is not read again, and the next look is an hour later."""
    pool = schema_driver.pool
    await discard(pool, finalized_at=datetime.now(UTC) - 2 * HOUR)
    copier = copier_of(pool)
    await copier.run_once()
    unsettled_seconds = copier.next_pause_seconds()
    await settle(pool)
    at = await settled_to(pool)
    pages = []
    copier.probe = lambda moment, value=None: pages.append(value) if moment == "page" else None  # type: ignore[method-assign]

    await copier.run_once()

    assert [page.num_read for page in pages] == [0]
    assert (unsettled_seconds, copier.next_pause_seconds()) == (UNSETTLED_SECONDS, IDLE_SECONDS)
    assert timedelta(0) <= datetime.now(UTC) - HOUR - LATE - at < timedelta(minutes=1)


@pytest.mark.slow
async def test_a_copy_of_the_table_on_another_server_settles_again(schema_driver: AsyncpgDriver) -> None:
    """A number of a transaction that this server has not reached does not stop the copies."""
    pool = schema_driver.pool
    await copier_of(pool).run_once()
    await pool.fetch(
        qualified("UPDATE /* schema */millhand_dead_job_cursor SET seen_xid = '9000000000000000000'", pool)
    )

    await settle(pool)

    assert (await settled_to(pool)).year > 2000


async def test_a_job_that_is_retried_at_this_moment_is_not_copied(schema_driver: AsyncpgDriver) -> None:
    """A retry that is not committed yet has locked the row: the pass neither waits nor copies."""
    pool = schema_driver.pool
    job = await discard(pool)
    other = await discard(pool)
    async with pool.begin() as retrying:
        await retrying.run(job_retry(job.id))
        await asyncio.wait_for(copier_of(pool).run_once(), GENEROUS_SECONDS)

    assert await dead_ids(pool) == [other.id]


async def test_a_job_that_stays_locked_is_copied_later(schema_driver: AsyncpgDriver) -> None:
    """A lock of a transaction that began later than the passes lets nothing settle, however old the discard is."""
    pool = schema_driver.pool
    job = await discard(pool, finalized_at=datetime.now(UTC) - 2 * HOUR)
    await copier_of(pool, retention=HOUR).run_once()  # too old for this one
    async with pool.begin() as locking:
        await locking.fetch(qualified("SELECT FROM /* schema */river_job FOR UPDATE", locking))
        await pool.fetch(
            qualified(
                "UPDATE /* schema */millhand_dead_job_cursor SET seen_at = now() - interval '1 hour'", pool
            )
        )
        for _ in range(3):
            copier = copier_of(pool)
            await copier.run_once()
        skipped = (await dead_ids(pool), (await settled_to(pool)).year, copier.next_pause_seconds())

    await copier_of(pool).run_once()

    assert skipped == ([], 1, UNSETTLED_SECONDS)
    assert await dead_ids(pool) == [job.id]


async def test_dead_letters_of_jobs_that_were_retried_by_other_means_are_deleted(tx: Executor) -> None:
    """A job that runs again or has completed is no dead letter; one whose row was deleted stays one."""
    jobs = [await discard(tx) for _ in range(4)]
    await copier_of(tx).run_once()
    await tx.run(job_retry(jobs[0].id))
    await tx.fetch(
        qualified("UPDATE /* schema */river_job SET state = 'completed' WHERE id = $1", tx), [jobs[1].id]
    )
    await delete_row(tx, jobs[2].id)

    await copier_of(tx).run_once()

    assert await dead_ids(tx) == [jobs[2].id, jobs[3].id]


async def test_dead_letters_are_deleted_after_their_retention(tx: Executor) -> None:
    """The retention counts from the discard, and older discards are not copied. None keeps all."""
    now = datetime.now(UTC)
    old = await discard(tx, finalized_at=now - 91 * DAY)
    young = await discard(tx, finalized_at=now - 89 * DAY)

    await copier_of(tx, retention=None).run_once()
    all_ids = await dead_ids(tx)
    await copier_of(tx).run_once()
    kept = await dead_ids(tx)
    await copier_of(tx, now=now + 2 * DAY).run_once()

    assert (all_ids, kept, await dead_ids(tx)) == ([old.id, young.id], [young.id], [])


async def test_without_retention_nothing_is_copied_and_all_is_deleted(tx: Executor) -> None:
    """Zero turns dead letters off: the record of the copies goes too, so that cleaners wait for none."""
    await discard(tx, finalized_at=datetime.now(UTC) - HOUR)
    await copier_of(tx).run_once()

    await copier_of(tx, retention=timedelta(0)).run_once()

    assert await dead_ids(tx) == []
    assert await tx.fetch(qualified(SETTLED, tx)) == []


async def test_our_cleaner_deletes_no_discarded_job_before_it_is_copied(schema_driver: AsyncpgDriver) -> None:
    """Only what is settled goes. Without a pass, and without dead letters, the cleaner does not wait."""
    pool = schema_driver.pool

    async def cleaned(*, keeps: bool = True) -> list[int]:
        cleaner = JobCleaner(
            pool,
            clock=ManualClock(datetime.now(UTC)),
            cancelled_retention=None,
            completed_retention=None,
            discarded_retention=timedelta(seconds=1),
            keepers=keepers_of(
                [DeadJobs()], Config(**({} if keeps else {"dead_job_retention": timedelta(0)}))
            ),
        )
        before = await ids()
        await cleaner.run_once()
        return sorted(before - await ids())

    async def ids() -> set[int]:
        return {
            row["id"] for row in await pool.fetch(qualified("SELECT id FROM /* schema */river_job", pool))
        }

    ages = [3 * HOUR, 2 * HOUR, timedelta(minutes=2)]
    first = await discard(pool, finalized_at=datetime.now(UTC) - HOUR)
    without_a_pass = await cleaned()
    jobs = [await discard(pool, finalized_at=datetime.now(UTC) - age) for age in ages]
    await copier_of(pool).run_once()
    with_a_pass = await cleaned()
    await settle(pool)
    settled = await cleaned()
    without_dead_letters = await cleaned(keeps=False)

    assert without_a_pass == [first.id]
    assert with_a_pass == []
    assert settled == [job.id for job in jobs[:2]]
    assert without_dead_letters == [jobs[2].id]
    assert await dead_ids(pool) == [job.id for job in jobs]


async def test_without_registration_or_tables_a_pass_does_nothing(tx: Executor) -> None:
    """An older schema has no tables of dead letters, and without registration the schema is unknown."""
    await discard(tx)
    inactive = DeadJobCopier(tx, clock=ManualClock(), registration=Registration(), retention=DAY)
    await inactive.run_once()
    unregistered = await dead_ids(tx)
    await tx.fetch(qualified("DROP TABLE /* schema */millhand_dead_job", tx))
    copier = copier_of(tx)

    await copier.run_once()

    assert (unregistered, copier.next_pause_seconds()) == ([], IDLE_SECONDS)
