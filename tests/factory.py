"""Rows for tests, put into the table as somebody else would: whatever is not said is what the table's checks demand."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from millhand.core.job import JobId, JobRow, JobState
from millhand.db.driver.protocol import Executor
from millhand.engine.store.job import job_get_by_id

GOLDEN = Path(__file__).parent / "fixtures" / "river"
GENEROUS_SECONDS = 20.0  # how long anything may take that is waited for
NOW = datetime(2024, 5, 1, 10, 34, 56, 789_000, UTC)

# A running job, as a fetch returns it.
ROW = JobRow(
    id=JobId(1), state=JobState.RUNNING, attempt=1, max_attempts=25, attempted_at=NOW, created_at=NOW,
    finalized_at=None, scheduled_at=NOW, priority=1, encoded_args="{}", attempted_by=("me",), errors=(), kind="mail",
    metadata={}, queue="default", tags=(), unique_key=None, unique_states=None,
)  # fmt: skip

_CASTS = {
    "args": "text::jsonb",
    "errors": "text[]::jsonb[]",
    "metadata": "text::jsonb",
    "state": "text::/* schema */river_job_state",
    "unique_states": "int::bit(8)",
}


def golden(name: str) -> Any:
    """Return what was recorded from River under a name."""
    return json.loads((GOLDEN / f"{name}.json").read_text())["data"]


async def insert_job(executor: Executor, state: JobState = JobState.AVAILABLE, **columns: Any) -> JobRow:
    """
    Insert a row and return it as it is read.

    JSON columns are given as texts, `unique_states` as a number. Finalized states and attempts have their instants.
    """
    values: dict[str, Any] = {
        "args": "{}",
        "created_at": NOW,
        "kind": "kind",
        "max_attempts": 25,
        "scheduled_at": NOW,
        "state": state.value,
    }
    if state.is_finalized:
        values["finalized_at"] = NOW
    if state is JobState.RUNNING:
        values |= {"attempt": 1, "attempted_at": NOW, "attempted_by": ["client_gone"]}
    values |= columns
    names = ", ".join(values)
    casts = ", ".join(_cast(name, n) for n, name in enumerate(values, 1))
    sql = f"INSERT INTO /* schema */river_job ({names}) VALUES ({casts}) RETURNING id"
    [inserted] = await executor.fetch(qualified(sql, executor), list(values.values()))
    return await get_job(executor, inserted["id"])


async def get_job(executor: Executor, id: int) -> JobRow:
    return await executor.run(job_get_by_id(JobId(id)))


def qualified(sql: str, executor: Executor) -> str:
    """Return `sql` with the schema of the executor's tables put in, as statements of the package have it."""
    schema: str = executor._schema  # type: ignore[attr-defined]
    return sql.replace("/* schema */", f'"{schema}".' if schema else "")


def _cast(name: str, number: int) -> str:
    return f"${number}::{_CASTS[name]}" if name in _CASTS else f"${number}"
