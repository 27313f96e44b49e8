"""Claims about changes of jobs in batches: their transactions, and that they do what changes of one job do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from cli_runner import millhand
from dead_jobs import put_dead_jobs, until_blocked
from factory import NOW, get_job, insert_job, qualified
from millhand.client import Client
from millhand.core.config import Config
from millhand.core.errors import JobRunning, UniqueConflict
from millhand.core.job import JobId, JobState
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.protocol import Executor

pytestmark = pytest.mark.usefixtures("project")

BEGAN = datetime.now(UTC)
LATER = BEGAN + timedelta(days=100)
QUEUE = "limited"
TABLES = {
    "river_job": "id",
    "millhand_limited_job": "job_id",
    "millhand_limit_arrival": None,
    "millhand_flow_task": "job_id",
    "millhand_dead_job": "id",
}
INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ][\d:.]+(?:Z|[+-]\d\d:\d\d)")

INSERT_MANY = """
INSERT INTO /* schema */river_job (args, kind, max_attempts, state, finalized_at)
SELECT '{}', 'plain', 25, $1::text::/* schema */river_job_state, CASE WHEN $1 = 'discarded' THEN now() END
FROM generate_series(1, $2::integer)
"""


@contextlib.asynccontextmanager
async def heard(driver: AsyncpgDriver, url: str) -> AsyncIterator[list[tuple[str, str]]]:
    """Yield the notifications of a schema for clients that work or await jobs; all have come after the block."""
    connection, notifications = await asyncpg.connect(url), list[tuple[str, str]]()
    for channel in ("river_control", "millhand_result"):
        name = f"{driver.schema}.{channel}"
        await connection.add_listener(
            name, lambda _, __, channel, text: notifications.append((channel.split(".")[1], text))
        )
    yield notifications
    await connection.execute("SELECT 1")
    await connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
async def test_job_commands_change_a_batch_as_the_client_changes_each_job(
    schema_driver: AsyncpgDriver, postgres_url: str, verb: str
) -> None:
    """Jobs in all states, with limits, flows, unique keys, dead letters and callers that await them end up the same."""
    single = await _world(schema_driver.pool)
    async with (
        heard(schema_driver, postgres_url) as singly,
        Client(schema_driver, Config(skip_unknown_job_check=True)) as client,
    ):
        for id in single:
            with contextlib.suppress(JobRunning, UniqueConflict):
                await getattr(client.jobs, verb)(id)
        expected = await _seen(schema_driver.pool, single)
        await _clear(schema_driver.pool)
    await schema_driver.open()
    batch = await _world(schema_driver.pool)
    async with heard(schema_driver, postgres_url) as together:
        await millhand("job", verb, *batch, "--yes")

    assert await _seen(schema_driver.pool, batch) == expected
    running = {row["id"] for row in expected["river_job"] if row["state"] == "running"}
    by_place = _by_place(singly, single)
    # A cancel of one job notifies clients also of a job that does not run, which they ignore.
    needed = [
        (channel, place) for channel, place in by_place if channel != "river_control" or place in running
    ]
    assert _by_place(together, batch) == needed


async def _world(pool: Executor) -> list[JobId]:
    """Insert a job of each sort, and return their ids."""
    jobs = [await insert_job(pool, state, queue="other", **columns) for state, columns in _columns()]
    await pool.fetch(
        qualified(
            "INSERT INTO /* schema */millhand_limit (queue, at_once, by_args, by_kind, in_order, is_shared) "
            "VALUES ($1, 1, '{}', FALSE, FALSE, TRUE) ON CONFLICT DO NOTHING",
            pool,
        ),
        [QUEUE],
    )
    limited = qualified(
        "INSERT INTO /* schema */millhand_limited_job VALUES ($1, $2, '[]', 1, $3, $4, $5)", pool
    )
    for state, at, is_later, admitted_at in (
        (JobState.PENDING, NOW, False, None),
        (JobState.PENDING, LATER, True, None),
        (JobState.RUNNING, NOW, False, NOW),
        (JobState.RETRYABLE, LATER, False, NOW),
    ):
        jobs.append(await insert_job(pool, state, queue=QUEUE, scheduled_at=at))
        await pool.fetch(limited, [jobs[-1].id, QUEUE, at, is_later, admitted_at])
    task = qualified(
        "INSERT INTO /* schema */millhand_flow_task VALUES ($1, 1, $2, 1, 'completed', '{}')", pool
    )
    for state, of_task in ((JobState.PENDING, "waiting"), (JobState.RUNNING, "released")):
        jobs.append(await insert_job(pool, state, queue="other"))
        await pool.fetch(task, [jobs[-1].id, of_task])
    await put_dead_jobs(pool)
    return [job.id for job in jobs]


def _columns() -> list[tuple[JobState, dict[str, Any]]]:
    unique = {"unique_states": 0b1111_0101}  # not cancelled, nor discarded
    return [
        *[(state, {}) for state in JobState],
        *[(state, {"metadata": '{"millhand:awaited": true}'}) for state in JobState],
        *[(state, {"metadata": "[1]", "scheduled_at": LATER}) for state in JobState],
        (JobState.DISCARDED, {"attempt": 25, "metadata": '{"cancel_attempted_at": "x"}'}),
        *[(JobState.DISCARDED, {**unique, "unique_key": b"held"}) for _ in range(2)],
        (JobState.COMPLETED, {**unique, "unique_key": b"held"}),
        *[(JobState.DISCARDED, {**unique, "unique_key": b"free"}) for _ in range(3)],
        (JobState.DISCARDED, {"unique_key": b"free"}),
    ]


async def _seen(pool: Executor, ids: list[JobId]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables, with places for ids, and "now" for what was written during the test."""
    seen = {}
    for table, key in TABLES.items():
        rows = await pool.fetch(
            qualified(f"SELECT to_jsonb(t)::text AS row FROM /* schema */{table} AS t", pool)
        )
        decoded = [json.loads(INSTANT.sub(_instant, row["row"])) for row in rows]
        if key is None:  # how often a partition came does not count
            seen[table] = [*{row["partition_key"]: {**row, "id": None} for row in decoded}.values()]
        else:
            by_place = {ids.index(row[key]): {**row, key: None} for row in decoded}
            seen[table] = [{**row, key: place} for place, row in sorted(by_place.items())]
    return seen


def _instant(match: re.Match[str]) -> str:
    is_now = BEGAN <= datetime.fromisoformat(match[0]) < LATER
    return "now" if is_now else match[0]


def _by_place(notifications: list[tuple[str, str]], ids: list[JobId]) -> list[tuple[str, int]]:
    """Return for which jobs clients were notified, on which channel."""
    return sorted((channel, ids.index(int(re.findall(r"\d+", text)[0]))) for channel, text in notifications)


async def _clear(pool: Executor) -> None:
    for table in TABLES:
        await pool.fetch(qualified(f"DELETE FROM /* schema */{table}", pool))


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "state"), [("cancel", "available"), ("retry", "discarded")])
async def test_job_command_changes_a_thousand_jobs_in_a_transaction(
    schema_driver: AsyncpgDriver, verb: str, state: str
) -> None:
    """A command that changes 2,500 jobs needs three transactions, and prints each job once, in order."""
    pool = schema_driver.pool
    await pool.fetch(qualified(INSERT_MANY, pool), [state, 2_500])

    result = await millhand("job", verb, "--kind", "plain", "--yes")

    rows = await pool.fetch(
        qualified("SELECT id, xmin::text AS xid FROM /* schema */river_job ORDER BY id", pool)
    )
    assert result.out.split() == [str(row["id"]) for row in rows]
    assert len({row["xid"] for row in rows}) == 3


@pytest.mark.slow
async def test_job_command_changes_a_locked_job_after_the_others_of_its_batch(
    schema_driver: AsyncpgDriver,
) -> None:
    """A job that another transaction has locked keeps no other job, and no lock of the command waits for it."""
    pool = schema_driver.pool
    locked, other = [await insert_job(pool, JobState.DISCARDED) for _ in range(2)]
    async with pool.begin() as holder:
        lock = qualified("SELECT id FROM /* schema */river_job WHERE id = $1 FOR UPDATE", pool)
        await holder.fetch(lock, [locked.id])
        command = asyncio.create_task(millhand("job", "retry", locked.id, other.id, "--yes"))
        await until_blocked(pool, command, by=holder)
        meanwhile = await get_job(pool, other.id)
    result = await command

    assert meanwhile.state is JobState.AVAILABLE
    assert (result.code, result.out.split()) == (0, [str(other.id), str(locked.id)])


async def test_job_command_retries_the_others_when_a_unique_key_is_taken_meanwhile(
    schema_driver: AsyncpgDriver,
) -> None:
    """If another transaction inserts a job with the unique key of one job of a batch, only that job is left."""
    pool = schema_driver.pool
    unique = {"unique_key": b"k", "unique_states": 0b1111_0101}
    first, other = [await insert_job(pool, JobState.DISCARDED, **columns) for columns in (unique, {})]
    async with pool.begin() as holder:
        await insert_job(holder, JobState.AVAILABLE, **unique)
        command = asyncio.create_task(millhand("job", "retry", first.id, other.id, "--yes"))
        await until_blocked(pool, command, by=holder)
    result = await command

    assert (result.code, result.out.split()) == (1, [str(other.id)])
    assert f"unique key must be free, got job {first.id} in conflict with another job" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("is_terminal", [False, True])
async def test_job_command_shows_its_progress_on_a_terminal(
    schema_driver: AsyncpgDriver, monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    """On a terminal, standard error shows how many jobs were found and changed; in a pipe it has only the result."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal for rich
    monkeypatch.setenv("COLUMNS", "200")
    await schema_driver.pool.fetch(qualified(INSERT_MANY, schema_driver.pool), ["available", 1_500])

    result = await millhand("job", "cancel", "--kind", "plain", "--yes", is_terminal=is_terminal)

    assert ("cancel: 1,500 jobs of 1,500" in result.err, "find: 1,500 jobs" in result.err) == (
        is_terminal,
        is_terminal,
    )
    if not is_terminal:
        assert result.err == "cancelled 1,500 jobs\n"
