"""
The dead letters of a chaos run, and their audit.

The workers copy discards while everything fails. After the run, one more pass copies what was discarded last. Then each
discarded job has exactly one dead letter, equal to its row, and no other job has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from chaos_flows import KIND as FLOW_KIND

from millhand.core.clock import SystemClock
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.dead_jobs.copier import DeadJobCopier
from millhand.engine.registration import Registration

SINCE = datetime(1970, 1, 1, tzinfo=UTC)
# Without tasks of flows: a flow that is retried retries its discarded jobs, and their dead letters are deleted later.
COMPARE = f"""
SELECT
    coalesce(job.id, dead.id) AS id,
    coalesce(job.state::text = 'discarded', false) AS is_discarded,
    dead.id IS NOT NULL AS is_copied,
    (job.finalized_at, job.attempt, job.errors, job.args, job.metadata)
    IS NOT DISTINCT FROM (dead.finalized_at, dead.attempt, dead.errors, dead.args, dead.metadata) AS is_equal
FROM river_job AS job
FULL JOIN millhand_dead_job AS dead ON dead.id = job.id
WHERE ((job.state = 'discarded' AND job.finalized_at >= $1) OR dead.id IS NOT NULL)
AND coalesce(job.kind, dead.kind) <> '{FLOW_KIND}'
ORDER BY 1
"""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A discarded job or a dead letter, and whether both are there and equal."""

    id: int
    is_discarded: bool
    is_copied: bool
    is_equal: bool


async def compare_dead_jobs(url: str, since: datetime = SINCE) -> tuple[Sequence[Comparison], int]:
    """
    Copy what was discarded last; return all comparisons, and how many dead letters the workers had copied.

    What was discarded before `since` may have no dead letter.
    """
    connection = await asyncpg.connect(url)
    driver = AsyncpgDriver(url)
    await driver.open()
    try:
        num_copied: int = await connection.fetchval("SELECT count(*) FROM millhand_dead_job")
        copier = DeadJobCopier(
            driver.pool, clock=SystemClock(), registration=Registration(is_active=True), retention=None
        )
        await copier.run_once()
        return [Comparison(**dict(record)) for record in await connection.fetch(COMPARE, since)], num_copied
    finally:
        await driver.close()
        await connection.close()


def wrong_dead_jobs(
    comparisons: Sequence[Comparison], num_copied: int, figures: dict[str, int]
) -> Iterator[str]:
    """Yield the jobs whose dead letter is missing, too much or different, in sentences."""
    figures["dead letters"] = sum(one.is_copied for one in comparisons)
    figures["dead letters copied by workers"] = num_copied
    for one in comparisons:
        if not one.is_discarded:
            yield f"job {one.id} has a dead letter, and is not discarded"
        elif not one.is_copied:
            yield f"job {one.id} is discarded, and has no dead letter"
        elif not one.is_equal:
            yield f"job {one.id} is discarded, and its dead letter differs from its row"
