"""
The ways in which a chaos run inserts jobs.

They are the functions of the client, transactions of a user, plain SQL, River's client in Go, and the page.
All go through the inserter's proxy, so that its faults affect them. Each call inserts all of its jobs or none. One that
raises an error of `UNANSWERED` may have done either.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from chaos_plan import ChaosJob, now

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.errors import DriverError, OperationTimeout
from millhand.core.insert_opts import InsertOpts
from millhand.core.unique import UniqueOpts
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.driver.asyncpg_error import WIRE_ERRORS
from millhand.web import WebConfig, dashboard

sys.path += [str(Path(__file__).parents[1] / "interop"), str(Path(__file__).parents[1] / "web")]
from river_program import RiverError, RiverProgram, built_river, started_river
from visitors import USERS, bearer

ANSWER_SECONDS = 10.0
ONE, MANY, BULK, MANY_TX, BULK_TX, SQL, GO, PAGE = WAYS = (
    "insert",
    "insert_many",
    "insert_many_fast",
    "insert_many in a transaction",
    "insert_many_fast in a transaction",
    "SQL",
    "Go",
    "the page",
)
# Each call of these inserts one job.
ONE_BY_ONE = (ONE, PAGE)
# These know neither unique jobs nor, for the page, jobs that are due later.
PLAIN = (BULK, BULK_TX, SQL, GO, PAGE)
NO_GO = "Go's client inserted nothing: there is no Go here"


class NoAnswer(Exception):
    """A call of the page or of Go that failed."""


UNANSWERED = (DriverError, NoAnswer, OperationTimeout, RiverError, TimeoutError, *WIRE_ERRORS)
INSERT = """
INSERT INTO river_job (args, kind, max_attempts, priority, queue, scheduled_at, state)
SELECT args, kind, max_attempts, priority, queue, now(), 'available'
FROM jsonb_to_recordset($1) AS job (args jsonb, kind text, max_attempts int2, priority int2, queue text)
"""


class Ways:
    """The connections and programs behind the ways. Make it with `open_ways`."""

    def __init__(
        self, client: Client, url: str, page: httpx.AsyncClient, program: RiverProgram | None
    ) -> None:
        self._client = client
        self._page = page
        self._program = program
        self._url = url

    @property
    def names(self) -> Sequence[str]:
        return [way for way in WAYS if way != GO or self._program is not None]

    async def insert(self, way: str, jobs: Sequence[ChaosJob]) -> list[str]:
        """Insert jobs in one way, and return the answer to each: "inserted" or "skipped". Raises: UNANSWERED."""
        async with asyncio.timeout(2 * ANSWER_SECONDS):
            match way:
                case "insert" | "insert_many":
                    return _answers(await self._client.insert_many([*map(_inserted, jobs)]))
                case "insert_many_fast":
                    await self._client.insert_many_fast([*map(_inserted, jobs)])
                case "SQL":
                    async with self._transaction() as tx:
                        await tx.execute(
                            INSERT, json.dumps([_row(job) for job in jobs]), timeout=ANSWER_SECONDS
                        )
                case "Go":
                    await self._insert_in_go(jobs)
                case "the page":
                    await self._insert_on_page(jobs[0])
                case _:
                    return await self._insert_in_transaction(way, jobs)
        return ["inserted"] * len(jobs)

    async def retry(self, id: int) -> None:
        """Retry a job on the page. Raises: UNANSWERED."""
        await self._post(f"/jobs/{id}/retry", {})

    async def _insert_in_transaction(self, way: str, jobs: Sequence[ChaosJob]) -> list[str]:
        async with self._transaction() as tx:
            if way == MANY_TX:
                return _answers(await self._client.insert_many([*map(_inserted, jobs)], tx=tx))
            await self._client.insert_many_fast([*map(_inserted, jobs)], tx=tx)
        return ["inserted"] * len(jobs)

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._url, timeout=ANSWER_SECONDS)
        try:
            async with connection.transaction():
                yield connection
        finally:
            connection.terminate()

    async def _insert_in_go(self, jobs: Sequence[ChaosJob]) -> None:
        if self._program is None or not self._program.is_running:
            raise NoAnswer
        await self._program.call("insert", schema="", jobs=[job.inserted(now()) for job in jobs])

    async def _insert_on_page(self, job: ChaosJob) -> None:
        await self._post("/jobs/insert", _row(job))

    async def _post(self, path: str, fields: Mapping[str, Any]) -> None:
        answer = await self._page.post(f"/api/v1{path}", json=dict(fields))
        if not answer.is_success and not answer.is_redirect:
            raise NoAnswer(answer.status_code)


@contextlib.asynccontextmanager
async def open_ways(client: Client, url: str) -> AsyncIterator[Ways]:
    """Start the page and River's program on a URL, and stop them at the end."""
    async with contextlib.AsyncExitStack() as stack:
        driver = AsyncpgDriver(url, pool_size=2)
        await driver.open()
        stack.push_async_callback(driver.close)
        app = dashboard(driver, WebConfig(users=USERS))
        stack.push_async_callback(app.stop)
        page = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://page",
            headers=bearer("admin"),
        )
        await stack.enter_async_context(page)
        program = None
        with contextlib.suppress(pytest.skip.Exception):
            path = await asyncio.to_thread(built_river)
            program = await stack.enter_async_context(started_river(path, url))
        yield Ways(client, url, page, program)


def is_plain(job: ChaosJob) -> bool:
    """Return whether each way can insert a job."""
    return not job.is_unique and job.delay_seconds is None


def _answers(results: Sequence[Any]) -> list[str]:
    return ["skipped" if one.unique_skipped_as_duplicate else "inserted" for one in results]


def _row(job: ChaosJob) -> dict[str, Any]:
    return {
        "args": job.args(),
        "kind": job.kind,
        "max_attempts": job.max_attempts,
        "priority": job.priority,
        "queue": job.queue,
    }


def _inserted(job: ChaosJob) -> tuple[RawArgs, InsertOpts]:
    due_at = None if job.delay_seconds is None else now() + timedelta(seconds=job.delay_seconds)
    opts = InsertOpts(
        max_attempts=job.max_attempts,
        priority=job.priority,
        queue=job.queue,
        scheduled_at=due_at,
        unique=UniqueOpts(by_args=True) if job.is_unique else None,
    )
    return RawArgs(job.kind, json.dumps(job.args())), opts
