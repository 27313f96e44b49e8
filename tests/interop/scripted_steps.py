"""
The acts of a script that are steps, or that a transaction of the worker's own belongs to.

    ["step", "first", [acts…]]            a step, and what is done in it
    ["cursor_step", "loop", [acts…]]      a step with a number as its cursor; ["advance", 3] adds to it
    ["raw_cursor_step", "loop", [acts…]]  a step with any cursor; ["cursor", {"a": 1}] sets it
    ["checkpoint", "commit", 3]           in a step: stores it, and a cursor if one is said, in a transaction of its own;
                                          "rollback" takes that back, "fail" raises what takes it back
    ["complete_tx"]                       completes the job in a transaction; ["complete_tx_rolled_back"] takes it back
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg

from millhand.core.step import Cursor
from millhand.core.worker_job import Job

ScriptedJob = Job[dict[str, Any]]
VERBS = frozenset(
    ("advance", "checkpoint", "complete_tx", "complete_tx_rolled_back", "cursor", "cursor_step", "raw_cursor_step", "step")
)  # fmt: skip


class RolledBack(Exception):
    """The error that rolls back a script's transaction."""


class ScriptedSteps:
    """`play` runs the acts of a step; `report` records its start and its cursor."""

    def __init__(
        self, url: str, play: Callable[[ScriptedJob, list[Any]], Awaitable[None]], report: Callable[..., None]
    ) -> None:
        self._cursors: dict[int, Cursor] = {}
        self._play = play
        self._report = report
        self._url = url

    async def act(self, job: ScriptedJob, verb: str, rest: list[Any]) -> None:
        """Run one act."""
        match verb, rest:
            case ("step", [name, acts]):
                await job.step(name, self._step, job, name, acts)
            case ("cursor_step" | "raw_cursor_step", [name, acts]):
                await job.step_cursor(name, self._step_cursor, job, name, acts, verb == "cursor_step")
            case ("advance", [by]):
                cursor = self._cursors[job.id]
                cursor.set((cursor.value or 0) + by)
            case ("cursor", [value]):
                self._cursors[job.id].set(value)
            case ("checkpoint", [ending, *values]):
                await self._checkpoint(job, ending, values)
            case _:
                await self._complete(job, is_committed=verb == "complete_tx")

    async def _step(self, job: ScriptedJob, name: str, acts: list[Any]) -> None:
        self._report("step", job, attempt=job.attempt, step=name, cursor=0)
        await self._play(job, acts)

    async def _step_cursor(
        self, cursor: Cursor, job: ScriptedJob, name: str, acts: list[Any], is_number: bool
    ) -> None:
        self._cursors[job.id] = cursor
        value = cursor.value or 0 if is_number else cursor.value
        self._report("step", job, attempt=job.attempt, step=name, cursor=value)
        await self._play(job, acts)

    async def _checkpoint(self, job: ScriptedJob, ending: str, values: list[Any]) -> None:
        with contextlib.ExitStack() as stack:
            if ending == "rollback":
                stack.enter_context(contextlib.suppress(RolledBack))
            async with self._transaction() as connection:
                if values:
                    await self._cursors[job.id].checkpoint(values[0], tx=connection)
                else:
                    await job.checkpoint(tx=connection)
                if ending != "commit":
                    raise RolledBack("rolled back")

    async def _complete(self, job: ScriptedJob, *, is_committed: bool) -> None:
        with contextlib.suppress(RolledBack):
            async with self._transaction() as connection:
                row = await job.complete(tx=connection)
                self._report("completed_tx", job, state=row.state.value, metadata=row.metadata)
                if not is_committed:
                    raise RolledBack

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._url)
        try:
            async with connection.transaction():
                yield connection
        finally:
            await connection.close()
