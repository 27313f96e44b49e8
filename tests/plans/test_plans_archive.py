"""Plans of the archive's statements: a page reads a page, however many jobs the table has."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from plan_recorder import Plan, PlanRecorder

from factory import qualified
from millhand.archive.capability import ARCHIVED_OR_LATE
from millhand.archive.store import (
    ArchivePosition,
    archive_begin,
    archive_end,
    archive_file_list,
    archive_page,
    archive_page_settings,
)
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.driver import PLANNER_SETTINGS
from millhand.engine.store.job import job_delete_before

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
PAGE = 1_000
FILL = """
INSERT INTO /* schema */river_job (kind, args, max_attempts, attempt, state, finalized_at)
SELECT 'kind_' || n % 50, '{{}}', 25, 1,
    (ARRAY['completed', 'completed', 'cancelled', 'discarded'])[1 + n % 4]::/* schema */river_job_state,
    timestamptz '2026-03-10 12:00Z' - n * interval '10 ms'
FROM generate_series(1, {num_rows}) AS n;
"""


# Leaves statistics from a time when no job had ended.
BEFORE = """
INSERT INTO /* schema */river_job (kind, args, max_attempts) SELECT 'kind', '{}', 25 FROM generate_series(1, 1000);
ANALYZE /* schema */river_job;
DELETE FROM /* schema */river_job;
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_rows", "statistics"),
    [
        (30_000, "now"),
        (30_000, "none"),
        (30_000, "before"),
        pytest.param(1_000_000, "now", marks=pytest.mark.slow),
    ],
)
async def test_statements_read_what_they_return(
    schema_driver: AsyncpgDriver, postgres_url: str, num_rows: int, statistics: str
) -> None:
    """
    A page and a cleaner's batch in the midst of all jobs read themselves.

    They do so before the first ANALYZE too, and with statistics from before the jobs ended.
    """
    connection = await asyncpg.connect(postgres_url, server_settings=PLANNER_SETTINGS)
    schema = schema_driver.schema
    middle = NOW - timedelta(milliseconds=5 * num_rows)
    position = ArchivePosition(middle.isoformat(), 0)
    plans: dict[str, Plan] = {}
    try:
        if statistics == "before":
            await connection.execute(qualified(BEFORE, schema_driver.pool))
        await connection.execute(qualified(FILL.format(num_rows=num_rows), schema_driver.pool))
        if statistics == "now":
            await connection.execute(f"VACUUM (ANALYZE) {schema}.river_job")
        recorder = PlanRecorder(connection, schema)
        # Explained statements are executed: all of it is rolled back.
        transaction = connection.transaction()
        await transaction.start()
        begin = archive_begin(
            late=timedelta(0), max_delay=timedelta(days=7), open_at_most=timedelta(hours=1), url=None
        )
        page = archive_page(
            position, day=None, horizon=NOW.isoformat(), is_nested=False, limit=PAGE, max_bytes=10**9
        )
        await recorder.run(begin)
        await connection.execute(f"UPDATE {schema}.millhand_archive_cursor SET archived_at = $1", middle)
        await recorder.run(archive_page_settings())
        for name, query in {
            "begin": begin,
            "page": page,
            "page again": page,
            "end": archive_end(position, horizon=None, is_seen=True, seen_at=NOW, seen_xid="7"),
            "files": archive_file_list(since=middle),
            "clean": job_delete_before(
                cancelled_horizon=NOW,
                completed_horizon=NOW,
                discarded_horizon=NOW,
                kept=[ARCHIVED_OR_LATE],
                limit=PAGE,
            ),
        }.items():
            await recorder.run(query)
            plans[name] = recorder.plans[-1]
        await transaction.rollback()
    finally:
        await connection.close()

    of_pages = {"page", "page again", "clean"}
    blocks_max = {name: 25 * PAGE if name in of_pages else 1_000 for name in plans}
    assert {name: plan.num_blocks for name, plan in plans.items() if plan.num_blocks > blocks_max[name]} == {}
    assert {name: plan.num_read for name, plan in plans.items() if plan.num_read > 8 * PAGE} == {}
    assert "river_job_state_and_finalized_at_index" in plans["page"].indexes
