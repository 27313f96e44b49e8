"""A healthy fleet as rows, and faults planted into it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from factory import qualified
from millhand.core.orphans import OrphansConfig
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor
from millhand.doctor.catalog import CHECKS, run_checks
from millhand.doctor.context import Context, Deployed
from millhand.shells.doctor.finding import Finding, Report
from millhand.storage import ObjectStore

# Client `a` leads, works queue `mail` and knows kind `send`; one job waits there and one runs.
HEALTHY = """
    INSERT INTO /* schema */river_leader (leader_id, elected_at, expires_at)
    VALUES ('a', now() - interval '1 hour', now() + interval '1 hour');
    INSERT INTO /* schema */millhand_leader (leader_id, elected_at, expires_at)
    VALUES ('a', now() - interval '1 hour', now() + interval '1 hour');
    INSERT INTO /* schema */millhand_client (
        id, language, version, hostname, pid, kinds, queues, queue_updates, heartbeat_interval, started_at, last_seen_at
    ) VALUES ('a', 'python', '0.2.0', 'h', 1, '{send}', '{"mail": 5}', '{}', '1 hour', now() - interval '1 hour', now());
    INSERT INTO /* schema */river_queue (name, created_at, updated_at)
    VALUES ('mail', now() - interval '1 hour', now() - interval '1 hour');
    INSERT INTO /* schema */river_job (kind, args, max_attempts, state, queue)
    VALUES ('send', '{}', 25, 'available', 'mail');
    INSERT INTO /* schema */river_job (kind, args, max_attempts, state, queue, attempt, attempted_at, attempted_by)
    VALUES ('send', '{}', 25, 'running', 'mail', 1, now(), '{a}');
"""


def context_on(
    driver: AsyncpgDriver,
    *,
    retention: timedelta | None = None,
    orphans: OrphansConfig | None = None,
    store: ObjectStore | None = None,
    deployed: Deployed | None = None,
) -> Context:
    """Return a context on an open driver, whose pool has the other sessions too."""

    @contextlib.asynccontextmanager
    async def other_session() -> AsyncIterator[Executor]:
        yield driver.pool

    return Context(
        executor=driver.pool,
        other_session=other_session,
        schema=driver.schema,
        is_poll_only=False,
        completed_retention=retention or timedelta(hours=24),
        is_retention_known=retention is not None,
        orphans=orphans or OrphansConfig(),
        store=store,
        deployed=deployed,
    )


async def examined(context: Context, *areas: str) -> Report:
    """
    Run the checks of these areas, or all, but for two.

    A pool of several sessions looks like a pooler, and on a busy machine a round trip is slow.
    """
    left_out = ("connection.pooler", "connection.latency")
    checks = [check for check in CHECKS if check.name not in left_out]
    return await run_checks(context, [check for check in checks if not areas or check.area in areas])


async def plant(driver: AsyncpgDriver, sql: str) -> None:
    await driver.pool.execute_script(qualified(sql, driver.pool))


def found(report: Report) -> set[tuple[str, str, str]]:
    """Return the check, level and subject of each finding."""
    return {
        (result.check, one.level.value, one.subject) for result in report.results for one in result.findings
    }


def unseen(report: Report) -> dict[str, str]:
    """Return the first reason for which each check could not see."""
    return {result.check: result.unseen[0].reason for result in report.results if result.unseen}


def named(findings: Sequence[object]) -> list[tuple[str, str]]:
    """Return the level and subject of each finding; what is unseen has none."""
    return [
        (one.level.value, one.subject) if isinstance(one, Finding) else ("unseen", "") for one in findings
    ]
