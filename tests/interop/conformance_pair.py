"""Two adapters of River's conformance suite on one schema: Millhand's, and one on River's public API; each a process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
from go_build import built

from json_schema import faults
from river_adapter import CONTRACT, METHODS, Refused

SOURCES = Path(__file__).parent / "river_conformance"
SECONDS = 60.0  # as long as an election and a run of a maintenance service may take
LINE_BYTES_MAX = 2**26

Job = dict[str, Any]


class Side:
    """One adapter. Concurrency: one request at a time."""

    def __init__(self, name: str, application_name: str, process: asyncio.subprocess.Process) -> None:
        self._lock = asyncio.Lock()
        self._process = process
        self.application_name = application_name
        self.name = name

    async def call(self, method: str, /, **params: Any) -> Any:
        """Return a result. Raises: Refused; AssertionError if params or result break the contract."""
        assert list(faults(params, METHODS[method]["params"], CONTRACT["$defs"])) == []
        result = await self.call_unchecked(method, **params)
        assert list(faults(result, METHODS[method]["result"], CONTRACT["$defs"])) == []
        return result

    async def call_unchecked(self, method: str, /, **params: Any) -> Any:
        """Return the result of a request that may break the contract. Raises: Refused."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = json.dumps({"id": 1, "jsonrpc": "2.0", "method": method, "params": params})
        async with asyncio.timeout(SECONDS), self._lock:
            self._process.stdin.write(f"{line}\n".encode())
            response = await self._process.stdout.readline()
        assert response, f"adapter {self.name} ended during {method}"
        answer = json.loads(response)
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["result"]

    async def code(self, method: str, /, **params: Any) -> str:
        """Return the name of the error of a request, or `""` if it succeeds."""
        try:
            await self.call_unchecked(method, **params)
        except Refused as error:
            return error.name
        return ""

    async def until(self, method: str, is_met: Callable[[Any], Any], /, **params: Any) -> Any:
        """Repeat a request until its result meets the condition, and return it."""
        async with asyncio.timeout(SECONDS):
            while not is_met(result := await self.call(method, **params)):
                pass
        return result

    async def insert(self, behavior: str = "", /, **params: Any) -> Job:
        """Insert a job."""
        job: Job = await self.call("insert", behavior=behavior, **params)
        return job

    async def wait(self, job: Job, *states: str) -> Job:
        """Return a job when it is in one of `states`; by default, when it has ended."""
        waited: Job = await self.call("wait", id=job["id"], states=list(states))
        return waited

    async def until_state(self, job: Job, *states: str) -> Job:
        """Return a job when it is in one of `states`, which may need a leader's services."""
        found: Job = await self.until("get", lambda row: row["state"] in states, id=job["id"])
        return found

    async def until_event(self, event: str, count: int = 1) -> list[str]:
        """Return the events of the running client when there are `count` of this one."""
        stats = await self.until("runtime_stats", lambda stats: stats["events"].count(event) >= count)
        events: list[str] = stats["events"]
        return events

    async def until_leader(self, leader_id: str) -> Any:
        """Return the term of a leader when it has begun."""
        return await self.until("leader", lambda term: term["leader_id"] == leader_id)

    async def kill(self) -> None:
        """Kill the process, as a machine does that loses power."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """End the process, by its input or else by a kill."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()


class Pair:
    """Both adapters, and a connection to the database beside them."""

    def __init__(self, connection: asyncpg.Connection[Any], program: Path, schema: str, url: str) -> None:
        self._exits = contextlib.AsyncExitStack()
        self._numbers = itertools.count(1)
        self._program = program
        self.connection = connection
        self.schema = schema
        self.sides: dict[str, Side] = {}
        self.url = url

    async def open(self) -> None:
        """Start both adapters."""
        for name in ("go", "python"):
            self.sides[name] = await self.another(name)

    async def another(self, name: str, url: str = "") -> Side:
        """Start one more adapter of a language, which a test may kill; `url` may be that of a proxy."""
        url = url or self.url
        url = f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{self.schema}"
        application_name = f"river-conformance-{name}-{next(self._numbers)}"
        pipe = asyncio.subprocess.PIPE
        environment = {
            "RIVER_CONFORMANCE_APPLICATION_NAME": application_name,
            "RIVER_CONFORMANCE_DATABASE_URL": url,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        go = (str(self._program), "--database-url", url, "--application-name", application_name)
        process = await asyncio.create_subprocess_exec(
            *(go if name == "go" else (sys.executable, "-m", "river_conformance")),
            env={**os.environ, **environment},
            limit=LINE_BYTES_MAX,
            stdin=pipe,
            stdout=pipe,
        )
        side = Side(name, application_name, process)
        self._exits.push_async_callback(side.end)
        return side

    async def close(self) -> None:
        """End all adapters."""
        await self._exits.aclose()

    async def fetch(self, sql: str, *values: object) -> list[Any]:
        """Run SQL on the schema of the test, beside the adapters."""
        found: list[Any] = await self.connection.fetch(sql, *values)
        return found

    async def until_fetched(self, is_met: Callable[[list[Any]], Any], sql: str, *values: object) -> list[Any]:
        """
        Repeat SQL until its rows meet the condition, and return them.

        A transaction keeps the first answer of `pg_stat_activity` (PostgreSQL's chapter *The Cumulative
        Statistics System*), so each turn clears that snapshot.
        """
        async with asyncio.timeout(SECONDS):
            while not is_met(rows := await self.fetch(sql, *values)):
                await self.fetch("SELECT pg_stat_clear_snapshot()")
        return rows

    async def until_blocked(self, side: Side) -> None:
        """Return when a statement of an adapter waits for a lock."""
        sql = "SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
        await self.until_fetched(len, sql, side.application_name)

    @contextlib.asynccontextmanager
    async def payloads(self, topic: str) -> AsyncIterator[Callable[[], Any]]:
        """Yield a function that returns the payloads sent on a topic until now."""
        received: list[str] = []
        marks: asyncio.Queue[str] = asyncio.Queue()
        channel = f"{self.schema}.{topic}"

        def receive(*notification: Any) -> None:
            (marks.put_nowait if notification[-1] == "mark" else received.append)(notification[-1])

        async def until_now() -> list[str]:
            await self.connection.execute("SELECT pg_notify($1, 'mark')", channel)
            await asyncio.wait_for(marks.get(), SECONDS)
            return list(received)

        await self.connection.add_listener(channel, receive)
        yield until_now
        await self.connection.remove_listener(channel, receive)


def built_adapter() -> Path:
    """Return the path of the Go adapter, built if it is not. Skips the test where there is no Go."""
    return built("river-conformance", SOURCES)
