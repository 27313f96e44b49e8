"""
Commands to stored jobs and queues, which either language runs with the same answers.

`command_runner(harness, "go")` runs each command by itself. `async with transaction(harness, "python") as at` runs them in
a transaction, and rolls it back unless the test calls `at.commit()`. A refusal is an answer too: `{"refused": "not_found"}`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import asyncpg
import msgspec
from interop_harness import Harness, Language, PythonControl, Row, insert_opts
from river_program import RiverError, RiverProgram

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.errors import DriverError, JobRunning, MillhandError, NotFound, UniqueConflict
from millhand.core.job import JobRow, JobState
from millhand.core.queue import QueueRow
from millhand.engine.store.job_list import JobFilters
from millhand.engine.store.where import Where

Answer = Any
RECENTLY = timedelta(hours=12)


class CommandRunner(Protocol):
    """An object that runs commands in one language."""

    async def ask(self, method: str, **said: Any) -> Answer:
        """Return the answer to a command, or the reason of its refusal."""
        ...

    async def insert(self, jobs: Sequence[Row], *, fast: bool = False) -> Answer:
        """Insert jobs in one batch, by COPY if `fast`, and return their number."""
        ...

    async def commit(self) -> None:
        """Commit the transaction of these commands."""
        ...


def command_runner(harness: Harness, language: Language) -> CommandRunner:
    """Return a runner without a transaction."""
    if language == "go":
        return GoCommandRunner(harness.go, harness.schema)
    control = harness.control("python")
    assert isinstance(control, PythonControl)
    return PythonCommandRunner(control.client)


@contextlib.asynccontextmanager
async def transaction(harness: Harness, language: Language) -> AsyncIterator[CommandRunner]:
    """Begin a transaction for commands, and roll it back unless they commit it."""
    if language == "go":
        await harness.go.call("begin", tx="desk")
        at = GoCommandRunner(harness.go, harness.schema, "desk")
        try:
            yield at
        finally:
            await at.end(commit=False)
        return
    connection = await asyncpg.connect(harness.url)
    begun = connection.transaction()
    await begun.start()
    control = harness.control("python")
    assert isinstance(control, PythonControl)
    try:
        yield PythonCommandRunner(control.client, connection, begun.commit)
    finally:
        await connection.close()


@dataclass
class GoCommandRunner:
    program: RiverProgram
    schema: str
    tx: str = ""

    async def ask(self, method: str, **said: Any) -> Answer:
        filters = dict(said.pop("filters", {}))
        try:
            answer = await self._call("storage", method=method, filters=filters, **said)
        except RiverError as error:
            return {"refused": error.kind or error.sqlstate or "value"}
        return _recent(answer)

    async def insert(self, jobs: Sequence[Row], *, fast: bool = False) -> Answer:
        try:
            return await self._call("batch", jobs=jobs, fast=fast)
        except RiverError as error:
            return {"refused": error.sqlstate or "value"}

    async def commit(self) -> None:
        await self.end(commit=True)

    async def end(self, *, commit: bool) -> None:
        if self.tx:
            tx, self.tx = self.tx, ""
            await self.program.call("end", tx=tx, commit=commit)

    async def _call(self, op: str, **said: Any) -> Any:
        return await self.program.call(op, schema=self.schema, tx=self.tx, **said)


async def _nothing() -> None: ...


@dataclass
class PythonCommandRunner:
    client: Client
    tx: asyncpg.Connection | None = None
    commit: Callable[[], Awaitable[None]] = field(default=_nothing)

    async def ask(self, method: str, **said: Any) -> Answer:
        try:
            return _recent(await self._ask(method, **said))
        except (MillhandError, ValueError) as error:
            return {"refused": _reason(error)}

    async def insert(self, jobs: Sequence[Row], *, fast: bool = False) -> Answer:
        try:
            pairs = [(RawArgs(job["kind"], job["text"]), insert_opts(job.get("opts") or {})) for job in jobs]
            if fast:
                return await self.client.insert_many_fast(pairs, tx=self.tx)
            return len(await self.client.insert_many(pairs, tx=self.tx))
        except (MillhandError, ValueError) as error:
            return {"refused": _reason(error)}

    async def _ask(self, method: str, **said: Any) -> Answer:
        jobs, queues = self.client.jobs, self.client.queues
        id, queue, tx = said.get("job", 0), said.get("queue", ""), self.tx
        match method:
            case "job_cancel" | "job_delete" | "job_get" | "job_retry":
                return job_fields(await getattr(jobs, method.removeprefix("job_"))(id, tx=tx))
            case "job_peek":
                job = await jobs.get(id, tx=tx)
                return {"attempt": job.attempt, "num_errors": len(job.errors), "state": job.state.value}
            case "job_update":
                return job_fields(await jobs.update_output(id, said["output"], tx=tx))
            case "job_list":
                return await self._list(said)
            case "job_delete_many":
                options = {"limit": said["limit"], "unsafe_all": said.get("unsafe_all", False)}
                deleted = await jobs.delete_many(_filters(said), tx=tx, **options)
                return {"ids": [job.id for job in deleted]}
            case "queue_get":
                return queue_fields(await queues.get(queue, tx=tx))
            case "queue_list":
                return [queue_fields(one) for one in await queues.list(limit=said["limit"], tx=tx)]
            case "queue_pause" | "queue_resume":
                return await getattr(queues, method.removeprefix("queue_"))(queue, tx=tx)
            case "queue_update":
                return queue_fields(await queues.update(queue, metadata=said["metadata"], tx=tx))
        raise AssertionError(f"method must be one that a desk knows, got {method!r}")

    async def _list(self, said: Row) -> Answer:
        page = await self.client.jobs.list(
            _filters(said),
            after=said.get("after") or None,
            descending=said.get("descending", False),
            limit=said["limit"],
            order_by=said["order_by"],
            tx=self.tx,
        )
        return {"ids": [job.id for job in page.jobs], "cursor": page.cursor}


def job_fields(job: JobRow) -> Row:
    """Return a job that Millhand read, in the form in which River's program returns jobs."""
    return {
        "id": job.id,
        "args": job.args,
        "attempt": job.attempt,
        "attempted_at": _text_of(job.attempted_at),
        "attempted_by": list(job.attempted_by) or None,
        "created_at": _text_of(job.created_at),
        "errors": [
            {"at": _text_of(one.at), "attempt": one.attempt, "error": one.error, "trace": one.trace}
            for one in job.errors
        ],
        "finalized_at": _text_of(job.finalized_at),
        "kind": job.kind,
        "max_attempts": job.max_attempts,
        "metadata": job.metadata,
        "priority": job.priority,
        "queue": job.queue,
        "scheduled_at": _text_of(job.scheduled_at),
        "state": job.state.value,
        "tags": list(job.tags),
        "unique_key": "" if job.unique_key is None else job.unique_key.hex(),
        "unique_states": None
        if job.unique_states is None
        else [state.value for state in _states(job.unique_states)],
    }


def queue_fields(queue: QueueRow) -> Row:
    """Return a queue that Millhand read, in the form in which River's program returns queues."""
    return {"name": queue.name, "is_paused": queue.paused_at is not None, "metadata": queue.metadata}


def _filters(said: Row) -> JobFilters:
    filters = dict(said.get("filters", {}))
    if (states := filters.get("states")) is not None:
        filters["states"] = [JobState(state) for state in states]
    if (metadata := filters.pop("metadata", None)) is not None:
        filters["metadata"] = json.loads(metadata)
    sql, params = filters.pop("where", None), filters.pop("where_args", {})
    return JobFilters(**filters, where=None if sql is None else Where(sql, params))


def _reason(error: Exception) -> str:
    match error:
        case NotFound():
            return "not_found"
        case JobRunning():
            return "job_running"
        case UniqueConflict():
            return "23505"
        case DriverError():
            return error.sqlstate or "value"
    return getattr(error, "sqlstate", None) or "value"


def _text_of(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat()


def _recent(answer: Answer) -> Answer:
    """Return an answer with its times in one form, and with recent times as "now"."""
    if isinstance(answer, Mapping):
        return {name: _recent(value) for name, value in answer.items()}
    if isinstance(answer, list):
        return [_recent(value) for value in answer]
    if not isinstance(answer, str) or not re.match(r"\d{4}-\d\d-\d\dT", answer):
        return answer
    at = msgspec.convert(answer, datetime)  # nanoseconds are rounded, as they are when a row is read
    return "now" if abs(datetime.now(UTC) - at) < RECENTLY else at.astimezone(UTC).isoformat()


def _states(mask: int) -> list[JobState]:
    return [state for bit, state in enumerate(sorted(JobState)) if mask >> bit & 1]
