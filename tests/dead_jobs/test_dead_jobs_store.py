"""Claims about the statements of dead letters: unusual rows, roles without rights, and how far the copies are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dead_jobs import copier_of, dead_ids, dead_jobs, delete_row, discard
from factory import qualified
from millhand.core.job import JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.dead_jobs.dead_job import DeadJobFilters
from millhand.dead_jobs.store import (
    dead_job_begin,
    dead_job_copy,
    dead_job_delete_before,
    dead_job_delete_retried,
    dead_job_end,
    dead_job_get_shape,
    dead_job_list,
    dead_job_restore,
)

UNUSUAL = """
INSERT INTO /* schema */river_job (
    kind, args, max_attempts, attempt, state, finalized_at, created_at, attempted_at, attempted_by, errors, metadata
)
SELECT 'k', '[1]', 32767, attempt, 'discarded', at, '-infinity', 'infinity',
    '{{a,NULL},{b,c}}', '{{null,"1"},{"[]","{}"}}', metadata
FROM (VALUES
    (32767, timestamptz 'infinity', jsonb '[]'),
    (32767, timestamptz '-infinity', jsonb '"x"'),
    (-1, timestamptz '294276-01-01Z', jsonb '{}'),
    (3, timestamptz '4700-01-01Z BC', jsonb '1')
) AS given (attempt, at, metadata)
RETURNING id
"""


async def test_rows_that_no_client_writes_are_copied_and_restored(tx: Executor) -> None:
    """Instants outside the calendar, arrays of two dimensions and metadata that is no object stop no pass."""
    rows = await tx.fetch(qualified(UNUSUAL, tx))
    ids = [row["id"] for row in rows]
    await copier_of(tx, retention=None).run_once()
    await copier_of(tx, retention=None).run_once()
    listed = await tx.run(dead_job_list(DeadJobFilters()))
    found_ids = await dead_ids(tx)
    searched = await tx.run(dead_job_list(DeadJobFilters(error="x")))

    await delete_row(tx, *ids)
    restored = [await tx.run(dead_job_restore(id)) for id in ids]

    assert next(one.job.finalized_at for one in listed) == datetime.max.replace(tzinfo=UTC)
    assert (found_ids, searched) == (ids, [])
    assert [job.state for job in restored] == [JobState.AVAILABLE] * 4
    assert [job.max_attempts for job in restored] == [32_767] * 4


@pytest.mark.parametrize("table", ["millhand_dead_job", "millhand_dead_job_cursor"])
async def test_shape_needs_both_tables(tx: Executor, table: str) -> None:
    """A schema of version 12, or a role without rights, has no dead letters."""
    before = await tx.run(dead_job_get_shape())
    await tx.fetch(qualified(f"DROP TABLE /* schema */{table}", tx))

    assert (before, await tx.run(dead_job_get_shape())) == (True, False)


@pytest.mark.parametrize("privileges", ["SELECT", "SELECT, INSERT, UPDATE, DELETE"])
async def test_shape_needs_each_privilege(tx: Executor, privileges: str) -> None:
    """A role that may only read the tables has no dead letters to write."""
    await tx.fetch("CREATE ROLE writer_of_dead_jobs", [])
    for table in ("millhand_dead_job", "millhand_dead_job_cursor"):
        await tx.fetch(qualified(f"GRANT {privileges} ON /* schema */{table} TO writer_of_dead_jobs", tx), [])
    await tx.fetch(qualified("GRANT USAGE ON SCHEMA public TO writer_of_dead_jobs", tx), [])
    await tx.fetch("SET LOCAL ROLE writer_of_dead_jobs", [])

    assert await tx.run(dead_job_get_shape()) is (privileges != "SELECT")


async def test_begin_and_end_record_how_far_the_copies_are(schema_driver: AsyncpgDriver) -> None:
    """`settled_to` only grows, and a start is replaced only if the pass has seen the end of the one before."""
    pool = schema_driver.pool
    first = await pool.run(dead_job_begin())
    at = first.at

    async def end(*, settled_to: datetime | None, is_seen: bool, hours: int) -> bool:
        return await pool.run(
            dead_job_end(
                seen_at=at + timedelta(hours=hours),
                seen_xid=str(hours),
                settled_to=settled_to,
                is_seen=is_seen,
            )
        )

    await end(settled_to=None, is_seen=False, hours=1)
    began = await pool.run(dead_job_begin())
    await end(settled_to=at, is_seen=False, hours=2)
    kept = await pool.run(dead_job_begin())
    await end(settled_to=at - timedelta(hours=1), is_seen=True, hours=3)
    last = await pool.run(dead_job_begin())

    assert (first.settled_to, first.seen_at, first.has_ended) == ("-infinity", None, False)
    assert (began.settled_to, began.seen_at, began.has_ended) == ("-infinity", at + timedelta(hours=1), True)
    assert (datetime.fromisoformat(kept.settled_to), kept.seen_at) == (at, at + timedelta(hours=1))
    assert (datetime.fromisoformat(last.settled_to), last.seen_at) == (at, at + timedelta(hours=3))
    assert int(first.xid) < int(last.xid)


async def test_end_returns_whether_a_job_was_discarded_after_what_is_settled(tx: Executor) -> None:
    """A job whose instant is in the future, by a wrong clock, does not count."""
    now = datetime.now(UTC)

    async def is_settled(at: datetime) -> bool:
        return await tx.run(dead_job_end(seen_at=now, seen_xid="7", settled_to=at, is_seen=True))

    await discard(tx, finalized_at=now - timedelta(hours=1))
    await discard(tx, finalized_at=now + timedelta(hours=1))

    assert await is_settled(now - timedelta(hours=2)) is False
    assert await is_settled(now) is True


async def test_pages_have_their_last_position(tx: Executor) -> None:
    """An empty page has none, and a page after a position has only what follows."""
    now = datetime.now(UTC)
    ids = [(await discard(tx, finalized_at=now)).id for _ in range(3)]

    first = await tx.run(dead_job_copy(after_at="-infinity", after_id=0, limit=2, retention=None))
    assert first.last_at is not None
    second = await tx.run(dead_job_copy(after_at=first.last_at, after_id=ids[1], limit=2, retention=None))
    third = await tx.run(dead_job_copy(after_at=first.last_at, after_id=ids[2], limit=2, retention=None))

    assert (first[:3], first.last_id) == ((2, 2, 0), ids[1])
    assert (second[:3], second.last_id) == ((1, 1, 0), ids[2])
    assert tuple(third) == (0, 0, 0, None, None)


async def test_deletions_have_a_bound(tx: Executor) -> None:
    """Each deletes or reads at most as many dead letters as it may, the oldest or the lowest ids first."""
    now = datetime.now(UTC)
    jobs = [await discard(tx, finalized_at=now - timedelta(days=age)) for age in (1, 3, 2)]
    await copier_of(tx).run_once()
    await tx.fetch(qualified("UPDATE /* schema */river_job SET state = 'completed'", tx))

    num = await tx.run(dead_job_delete_before(retention=timedelta(hours=1), limit=1, now=now))
    after_old = await dead_ids(tx)
    page = await tx.run(dead_job_delete_retried(after_id=0, limit=1))
    end = await tx.run(dead_job_delete_retried(after_id=jobs[2].id, limit=1))

    assert (num, after_old) == (1, [jobs[0].id, jobs[2].id])
    assert (tuple(page), tuple(end)) == ((1, 1, jobs[0].id), (0, 0, None))
    assert [one.current_state for one in await dead_jobs(tx)] == [JobState.COMPLETED]
