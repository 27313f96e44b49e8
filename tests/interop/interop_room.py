"""
A schema in which River and we work together, and one vocabulary for both.

`room.working("go", "go_a")` and `room.working("python", "python_a")` start clients that are as alike as can be;
`room.hand("go")` and `room.hand("python")` insert and control. So a test says once what both must do, and is given the
languages in either order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import asyncpg
from river_program import GENEROUS_SECONDS, RiverProgram, Told, started, started_river
from scripted_worker import Act, ScriptedWorkers

from millhand.args.codec import RawArgs
from millhand.client import Client
from millhand.clock import SystemClock
from millhand.config import Config
from millhand.driver.asyncpg import AsyncpgDriver
from millhand.event import Event
from millhand.insert_opts import InsertOpts
from millhand.job import JobState
from millhand.observe.job_log import JobLog
from millhand.periodic import PeriodicJob, every
from millhand.runtime.subscription import Subscription
from millhand.store.job_list import JobFilters
from millhand.unique import UniqueOpts

Language = Literal["go", "python"]
LANGUAGES: tuple[Language, Language] = ("go", "python")
BOTH_WAYS: tuple[tuple[Language, Language], ...] = (("go", "python"), ("python", "go"))
Row = dict[str, Any]
Opts = dict[str, Any]

# As River's side writes its own, so that they can be compared.
PLAIN_LINES = logging.Formatter("level=%(levelname)s msg=%(message)s")

# Every change of the tables rings, so that nobody has to look again and again.
_RING = """
CREATE FUNCTION /* schema */interop_ring() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_notify('interop_ring', '');
    RETURN NULL;
END
$body$;
CREATE TRIGGER interop_ring AFTER INSERT OR UPDATE OR DELETE ON /* schema */river_job
EXECUTE FUNCTION /* schema */interop_ring();
CREATE TRIGGER interop_ring AFTER INSERT OR UPDATE OR DELETE ON /* schema */river_leader
EXECUTE FUNCTION /* schema */interop_ring();
CREATE TRIGGER interop_ring AFTER INSERT OR UPDATE OR DELETE ON /* schema */river_queue
EXECUTE FUNCTION /* schema */interop_ring();
"""
_UNRING = "DROP FUNCTION /* schema */interop_ring CASCADE"


@dataclass(frozen=True, kw_only=True)
class Periodic:
    """A periodic job, in either language; one that is aligned is due at whole multiples of its seconds."""

    id: str
    kind: str
    opts: Opts
    seconds: float
    is_aligned: bool = False
    run_on_start: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a working client is to be; what is not said is as quick as a test wants it. It leads only if asked to."""

    aliases: dict[str, list[str]]
    clock_offset_seconds: float
    is_quiet: bool
    kinds: tuple[str, ...]
    knows_only: bool
    prefer_other_leaders: bool
    leads: bool
    periodic_jobs: Sequence[Periodic]
    poll_only: bool
    poll_seconds: float
    queues: dict[str, int]
    rescue_after_seconds: float
    retention_seconds: Mapping[str, float]
    soft_stop_seconds: float


class Member(Protocol):
    """A working client."""

    async def stop(self, *, cancel: bool = False) -> None:
        """Stop; `cancel` cancels attempts at once."""
        ...

    async def release(self, id: int) -> None:
        """Let an attempt go on that holds."""
        ...

    async def executed(self) -> list[dict[str, int]]:
        """Return what was begun, in order."""
        ...


class Hand(Protocol):
    """Whoever inserts and controls."""

    async def insert_many(self, jobs: Sequence[Row]) -> list[Row]:
        """Insert `{"kind", "args", "opts"}`; return `{"id", "skipped"}` of each."""
        ...

    async def cancel(self, id: int) -> None: ...

    async def retry(self, id: int) -> None: ...

    async def delete(self, id: int) -> None: ...

    async def pause(self, queue: str) -> None: ...

    async def resume(self, queue: str) -> None: ...

    async def request_resign(self) -> None: ...

    async def list(self, **parameters: Any) -> tuple[list[int], str | None]:
        """Return a page: ids, and the cursor behind it."""
        ...

    async def insert(self, *acts: Act, kind: str = "act", **opts: Any) -> int:
        """Insert one job with a script, and return its id."""
        ...


class Room:
    """One schema, emptied for each test, with River's program beside it."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        driver: AsyncpgDriver,
        program: RiverProgram,
        program_path: Path,
        url: str,
    ) -> None:
        self.connection = connection
        self.driver = driver
        self.go = program
        self.prefix = f'"{driver.schema}".' if driver.schema else ""
        self.schema = driver.schema
        self.told = program.told = Told()
        self.url = url
        self._news = asyncio.Event()
        self._program_path = program_path
        self._python = Client(url, Config(schema=driver.schema, client_id="python_control"))

    # Who is there.

    @contextlib.asynccontextmanager
    async def working(
        self, language: Language, id: str = "", *, program: RiverProgram | None = None, **settings: Any
    ) -> AsyncIterator[Member]:
        """Start a client that works, and stop it in the end; it plays the scripts of `kinds`."""
        defaults = {
            "aliases": {},
            "clock_offset_seconds": 0.0,
            "is_quiet": False,
            "kinds": ("act",),
            "knows_only": True,
            "prefer_other_leaders": True,
            "leads": False,
            "periodic_jobs": (),
            "poll_only": False,
            "poll_seconds": 0.05,
            "queues": {"default": 10},
            "rescue_after_seconds": 0.0,
            "retention_seconds": {},
            "soft_stop_seconds": 0.0,
        }
        given = Settings(**{**defaults, **settings})
        id = id or f"{language}_a"
        starting = (
            self._go_member(id, given, program or self.go)
            if language == "go"
            else self._python_member(id, given)
        )
        async with starting as member:
            yield member

    def hand(self, language: Language) -> Hand:
        """Return who inserts and controls."""
        return GoHand(self.go, self.schema) if language == "go" else PythonHand(self._python)

    @contextlib.asynccontextmanager
    async def another_river(self, **environment: str) -> AsyncIterator[RiverProgram]:
        """Start one more process of River's program, which a test may kill. It tells into the same `told`."""
        async with started_river(self._program_path, self.url, environment) as program:
            program.told = self.told
            yield program

    @contextlib.asynccontextmanager
    async def mortal(self, language: Language, id: str) -> AsyncIterator[RiverProgram]:
        """Start a client that works and may lead, in a process of its own, which a test may kill."""
        if language == "go":
            async with self.another_river() as program:
                queues = {"default": 10}
                await program.call("start", id=id, kinds=["act"], queues=queues, schema=self.schema)
                yield program
            return
        command = (sys.executable, str(Path(__file__).parent / "python_member.py"), self.url, self.schema, id)
        async with started(command) as program:
            program.told = self.told
            await self.told.wait("started", client=id)
            yield program

    # What is there.

    async def row(self, id: int) -> Row:
        """Return a row as JSON tells it, instants as texts."""
        rows = await self.rows("WHERE id = $1", id)
        assert rows, f"job {id} must be there"
        return rows[0]

    async def rows(self, condition: str = "", *parameters: object) -> list[Row]:
        """Return rows, by id."""
        sql = f"SELECT to_jsonb(job) FROM {self.prefix}river_job AS job {condition} ORDER BY id"
        return [json.loads(row[0]) for row in await self.connection.fetch(sql, *parameters)]

    async def fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        """Run SQL with `/* schema */` in it."""
        return await self.connection.fetch(sql.replace("/* schema */", self.prefix), *parameters)

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Return what `condition` returns when that is true; it is asked again whenever a table changes."""
        try:
            async with asyncio.timeout(GENEROUS_SECONDS):
                while not (met := await condition()):
                    await self._news.wait()
                    self._news.clear()
        except TimeoutError:
            rows = "\n".join(map(str, (await self.rows())[:20]))
            raise AssertionError(f"{what} must come, got\n{rows}") from None
        return met

    async def until_state(self, id: int, *states: str) -> Row:
        """Return a job's row when it is in one of `states`."""

        async def condition() -> Row | None:
            row = await self.row(id)
            return row if row["state"] in states else None

        row: Row = await self.until(condition, f"job {id} in {states}")
        return row

    async def on_inserts(self) -> list[Row]:
        """Return a list that grows by the payload of each notification of an insert; wait with `until_heard`."""
        heard: list[Row] = []

        def hear(*words: Any) -> None:
            heard.append(json.loads(words[3]))
            self._ring()

        await self.connection.add_listener(f"{self.schema}.river_insert", hear)
        return heard

    async def until_heard(self, heard: list[Row], count: int) -> None:
        """Return when `count` notifications were heard."""

        async def condition() -> bool:
            return len(heard) >= count

        await self.until(condition, f"{count} notifications")

    async def leader(self) -> str | None:
        """Return the id of the client that leads, by the row that has not expired."""
        sql = "SELECT leader_id FROM /* schema */river_leader WHERE expires_at > now()"
        rows = await self.fetch(sql)
        return rows[0][0] if rows else None

    async def until_leader(self, id: str) -> None:
        """Return when a client leads."""

        async def condition() -> bool:
            return await self.leader() == id

        await self.until(condition, f"leader {id}")

    # The room's own.

    async def open(self) -> None:
        await self.driver.pool.execute_script(_RING, timeout_seconds=GENEROUS_SECONDS)
        await self.connection.add_listener("interop_ring", self._ring)
        await self._python.start()

    async def close(self) -> None:
        await self._python.stop()
        await self.connection.remove_listener("interop_ring", self._ring)
        await self.driver.pool.execute_script(_UNRING, timeout_seconds=GENEROUS_SECONDS)

    def _ring(self, *_: object) -> None:
        self._news.set()

    @contextlib.asynccontextmanager
    async def _go_member(self, id: str, settings: Settings, program: RiverProgram) -> AsyncIterator[GoMember]:
        await program.call(
            "start",
            id=id,
            aliases=settings.aliases,
            clock_offset_seconds=settings.clock_offset_seconds,
            fetch_cooldown_seconds=0.01,
            fetch_only_known_kinds=settings.knows_only,
            fetch_poll_seconds=settings.poll_seconds,
            is_quiet=settings.is_quiet,
            kinds=settings.kinds,
            leader_election_disabled=not settings.leads,
            periodic_jobs=[
                {
                    "args": {"do": []},
                    "id": one.id,
                    "is_aligned": one.is_aligned,
                    "kind": one.kind,
                    "opts": one.opts,
                    "run_on_start": one.run_on_start,
                    "seconds": one.seconds,
                }
                for one in settings.periodic_jobs
            ],
            poll_only=settings.poll_only,
            queues=settings.queues,
            rescue_after_seconds=settings.rescue_after_seconds,
            retention_seconds=settings.retention_seconds,
            schema=self.schema,
            soft_stop_seconds=settings.soft_stop_seconds,
        )
        member = GoMember(program, id)
        try:
            yield member
        finally:
            await member.stop(cancel=True)

    @contextlib.asynccontextmanager
    async def _python_member(self, id: str, settings: Settings) -> AsyncIterator[PythonMember]:
        scripted = ScriptedWorkers(id, self.told, is_quiet=settings.is_quiet, url=self.url)
        client = Client(self.url, self._python_config(id, settings, scripted))
        async with asyncio.TaskGroup() as readers:
            if not settings.is_quiet:
                readers.create_task(self._tell_events(id, client.subscribe()))
            await client.start()
            member = PythonMember(client, scripted)
            try:
                yield member
            finally:
                await member.stop(cancel=True)

    def _python_config(self, id: str, settings: Settings, scripted: ScriptedWorkers) -> Config:
        retention = {
            f"{state}_job_retention": None if seconds < 0 else timedelta(seconds=seconds)
            for state, seconds in settings.retention_seconds.items()
        }
        return Config(
            client_id=id,
            clock=SkewedClock(timedelta(seconds=settings.clock_offset_seconds)),
            fetch_cooldown=timedelta(milliseconds=10),
            fetch_only_known_kinds=settings.knows_only,
            fetch_poll_interval=timedelta(seconds=settings.poll_seconds),
            prefer_other_leaders=settings.prefer_other_leaders,
            leader_election=settings.leads,
            middleware=[JobLog(formatter=PLAIN_LINES)],
            periodic_jobs=[_periodic_job(one) for one in settings.periodic_jobs],
            poll_only=settings.poll_only,
            queues=settings.queues,
            rescue_stuck_jobs_after=timedelta(seconds=settings.rescue_after_seconds)
            if settings.rescue_after_seconds
            else None,
            schema=self.schema,
            skip_unknown_job_check=True,
            soft_stop_timeout=timedelta(seconds=settings.soft_stop_seconds)
            if settings.soft_stop_seconds
            else None,
            workers=scripted.workers(settings.kinds, settings.aliases),
            **retention,
        )

    async def _tell_events(self, id: str, events: Subscription[Event]) -> None:
        async for event in events:
            line: Row = {"event": event.kind.value, "client": id}
            if event.job is None:
                line["queue"] = event.queue
            else:
                line |= {"job": event.job.id, "state": event.job.state.value}
            self.told.tell(line)


class SkewedClock(SystemClock):
    """Wrong by the same amount all the time."""

    def __init__(self, offset: timedelta) -> None:
        self._offset = offset

    def now(self) -> datetime:
        return super().now() + self._offset


@dataclass
class GoMember:
    program: RiverProgram
    id: str
    is_stopped: bool = False

    async def stop(self, *, cancel: bool = False) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            if self.program.is_running:
                await self.program.call("stop", id=self.id, cancel=cancel)

    async def release(self, id: int) -> None:
        await self.program.call("release", job=id)

    async def executed(self) -> list[dict[str, int]]:
        executed: list[dict[str, int]] = await self.program.call("executed", id=self.id)
        return executed


@dataclass
class PythonMember:
    client: Client
    scripted: ScriptedWorkers

    async def stop(self, *, cancel: bool = False) -> None:
        await self.client.stop(soft_stop_timeout=timedelta(0) if cancel else None)

    async def release(self, id: int) -> None:
        self.scripted.release(id)

    async def executed(self) -> list[dict[str, int]]:
        return self.scripted.executed


class Scripting:
    """What both hands do alike."""

    async def insert_many(self, jobs: Sequence[Row]) -> list[Row]:
        raise NotImplementedError

    async def insert(self, *acts: Act, kind: str = "act", **opts: Any) -> int:
        [inserted] = await self.insert_many([{"kind": kind, "args": {"do": acts}, "opts": opts}])
        id: int = inserted["id"]
        return id


@dataclass
class GoHand(Scripting):
    program: RiverProgram
    schema: str

    async def insert_many(self, jobs: Sequence[Row]) -> list[Row]:
        results = await self.program.call("insert", schema=self.schema, jobs=jobs)
        return [{"id": one["job"]["id"], "skipped": one["skipped"]} for one in results]

    async def cancel(self, id: int) -> None:
        await self._call("cancel", job=id)

    async def retry(self, id: int) -> None:
        await self._call("retry", job=id)

    async def delete(self, id: int) -> None:
        await self._call("delete", job=id)

    async def pause(self, queue: str) -> None:
        await self._call("pause", queue=queue)

    async def resume(self, queue: str) -> None:
        await self._call("resume", queue=queue)

    async def request_resign(self) -> None:
        await self._call("resign")

    async def list(self, **parameters: Any) -> tuple[list[int], str | None]:
        page = await self._call("list", **parameters)
        return page["ids"], page["cursor"]

    async def _call(self, op: str, **parameters: Any) -> Any:
        return await self.program.call(op, schema=self.schema, **parameters)


@dataclass
class PythonHand(Scripting):
    client: Client

    async def insert_many(self, jobs: Sequence[Row]) -> list[Row]:
        pairs = [
            (
                RawArgs(job["kind"], job.get("text") or json.dumps(job["args"])),
                insert_opts(job.get("opts") or {}),
            )
            for job in jobs
        ]
        results = await self.client.insert_many(pairs)
        return [{"id": one.job.id, "skipped": one.unique_skipped_as_duplicate} for one in results]

    async def cancel(self, id: int) -> None:
        await self.client.jobs.cancel(id)

    async def retry(self, id: int) -> None:
        await self.client.jobs.retry(id)

    async def delete(self, id: int) -> None:
        await self.client.jobs.delete(id)

    async def pause(self, queue: str) -> None:
        await self.client.queues.pause(queue)

    async def resume(self, queue: str) -> None:
        await self.client.queues.resume(queue)

    async def request_resign(self) -> None:
        await self.client.request_resign()

    async def list(self, **parameters: Any) -> tuple[list[int], str | None]:
        states = parameters.pop("states", None)
        filters = JobFilters(states=None if states is None else [JobState(state) for state in states])
        page = await self.client.jobs.list(filters, **parameters)
        return [job.id for job in page.jobs], page.cursor


def insert_opts(opts: Opts) -> InsertOpts:
    """Return options that were said as River's program is told them."""
    said = dict(opts)
    if said.get("scheduled_at"):
        said["scheduled_at"] = datetime.fromisoformat(str(said["scheduled_at"]))
    if said.get("unique") is not None:
        said["unique"] = unique_opts(said["unique"])
    return InsertOpts(**said)


def unique_opts(unique: Mapping[str, Any]) -> UniqueOpts:
    said = dict(unique)
    seconds = said.pop("by_period_seconds", None)
    return UniqueOpts(by_period=timedelta(seconds=seconds) if seconds else None, **said)


class Aligned:
    """Due at whole multiples of an interval, whoever leads since when."""

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval

    def next(self, after: datetime) -> datetime:
        begin = datetime(1970, 1, 1, tzinfo=UTC)
        return begin + ((after - begin) // self._interval + 1) * self._interval


def _periodic_job(one: Periodic) -> PeriodicJob:
    args, interval = RawArgs(one.kind, '{"do": []}'), timedelta(seconds=one.seconds)
    if one.is_aligned:
        opts = insert_opts(one.opts)
        return PeriodicJob(
            schedule=Aligned(interval), args=args, id=one.id, opts=opts, run_on_start=one.run_on_start
        )
    return every(interval, args, id=one.id, opts=insert_opts(one.opts), run_on_start=one.run_on_start)
