"""Rows to begin with, and what River v0.51.2 left in its rows, as recorded in tests/fixtures/river."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from millhand.core.insert_opts import InsertParams
from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_get_by_id

FIXTURES = Path(__file__).parents[2] / "fixtures" / "river"

# Whole microseconds, as in the database.
NOW = datetime(2026, 11, 25, 12, 30, 15, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)

# The SQL that writes a column from the text that PostgreSQL prints.
COLUMN_TYPES = {
    "id": "bigint",
    "state": "river_job_state",
    "attempt": "smallint",
    "max_attempts": "smallint",
    "attempted_at": "timestamptz",
    "created_at": "timestamptz",
    "finalized_at": "timestamptz",
    "scheduled_at": "timestamptz",
    "priority": "smallint",
    "args": "jsonb",
    "attempted_by": "text[]",
    "errors": "jsonb[]",
    "kind": "text",
    "metadata": "jsonb",
    "queue": "text",
    "tags": "varchar(255)[]",
    "unique_key": "bytea",
    "unique_states": "bit(8)",
}

Columns = dict[str, str | None]


def params(**given: Any) -> InsertParams:
    """Return the params of a job; fields that are not given have plain values."""
    plain = {
        "kind": "act",
        "encoded_args": "{}",
        "max_attempts": 25,
        "encoded_metadata": "{}",
        "priority": 1,
        "queue": "default",
        "state": JobState.AVAILABLE,
    }
    return InsertParams(**{**plain, **given})


async def put_columns(executor: Executor, columns: Columns) -> JobId:
    """Write a row from texts as PostgreSQL prints them, with only the table's own checks."""
    names = list(columns)
    values = ", ".join(f"${n}::text::{COLUMN_TYPES[name]}" for n, name in enumerate(names, 1))
    sql = f"INSERT INTO river_job ({', '.join(names)}) VALUES ({values}) RETURNING id"
    [row] = await executor.fetch(sql, [columns[name] for name in names])
    return JobId(row["id"])


async def get_columns(executor: Executor, id: JobId) -> Columns:
    """Return a row as PostgreSQL prints it in UTC."""
    await executor.fetch("SELECT set_config('timezone', 'UTC', true)")
    texts = ", ".join(f"{name}::text" for name in COLUMN_TYPES)
    [row] = await executor.fetch(f"SELECT {texts} FROM river_job WHERE id = $1", [id])
    return dict(row)


async def put_job(executor: Executor, state: JobState = JobState.AVAILABLE, **given: Any) -> JobRow:
    """Write a job in a state, with the columns that the state and the table's checks need, and return its row."""
    columns: dict[str, Any] = {
        "state": state.value,
        "kind": "act",
        "args": "{}",
        "max_attempts": "25",
        "created_at": NOW - HOUR,
        "scheduled_at": NOW - HOUR,
    }
    if state.is_finalized:
        columns["finalized_at"] = NOW - HOUR
    if state is JobState.RUNNING:
        columns |= {"attempt": "1", "attempted_at": NOW - HOUR, "attempted_by": "{client_a}"}
    written = {name: None if value is None else str(value) for name, value in {**columns, **given}.items()}
    return await executor.run(job_get_by_id(await put_columns(executor, written)))


@cache
def stories() -> dict[str, dict[str, Any]]:
    """Return River's recorded sequences of job rows, by name."""
    data = json.loads((FIXTURES / "jobs.json").read_text())["data"]
    return {story["scenario"]: story for story in data}


def photo(scenario: str, when: str) -> Columns:
    """Return a row as PostgreSQL printed it at one step of a recording."""
    for taken in stories()[scenario]["photos"]:
        if taken["when"] == when:
            return dict(taken["row"]["columns"])
    raise LookupError(f"moment must be recorded, got {when!r} of {scenario!r}")


@cache
def notified(step: str) -> list[tuple[str, str]]:
    """Return the topics and payloads of a step's notifications, in order."""
    data = json.loads((FIXTURES / "notifications.json").read_text())["data"]
    [recorded] = [one for one in data if one["step"] == step and one["schema"] == ""]
    return [(one["channel"].removeprefix("public."), one["payload"]) for one in recorded["notifications"]]


def instant(text: str | None) -> datetime:
    """Read an instant as PostgreSQL prints it in UTC."""
    assert text is not None
    return datetime.fromisoformat(text.replace("+00", "+00:00"))
