"""
A schema in which River and Millhand work together, and one interface to both languages.

`harness.working("go", "go_a")` and `harness.working("python", "python_a")` start clients with the same settings.
`harness.control("go")` and `harness.control("python")` insert jobs and control them. A test describes what both languages
must do, and takes the languages in either order.
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
from river_program import GENEROUS_SECONDS, EventLog, RiverProgram, started, started_river
from scripted_worker import Act, ScriptedWorkers

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.clock import SystemClock
from millhand.core.config import Config, QueueConfig
from millhand.core.event import Event
from millhand.core.insert_opts import InsertOpts
from millhand.core.job import JobState
from millhand.core.periodic import PeriodicJob, every
from millhand.core.unique import UniqueOpts
from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.engine.store.job_list import JobFilters
from millhand.engine.subscription import Subscription
from millhand.observe.job_log import JobLog

Language = Literal["go", "python"]
LANGUAGES: tuple[Language, Language] = ("go", "python")
BOTH_WAYS: tuple[tuple[Language, Language], ...] = (("go", "python"), ("python", "go"))
Row = dict[str, Any]
Opts = dict[str, Any]

# The format of the Go program's log lines, so that both can be compared.
PLAIN_LINES = logging.Formatter("level=%(levelname)s msg=%(message)s")

# Each change of a table sends a notification, so that waiting tests need no polling.
_ADD_CHANGE_TRIGGERS = """
CREATE FUNCTION /* schema */interop_change() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM pg_notify('interop_change', '');
    RETURN NULL;
END
$body$;
CREATE TRIGGER interop_change AFTER INSERT OR UPDATE OR DELETE ON /* schema */river_job
EXECUTE FUNCTION /* schema */interop_change();
CREATE TRIGGER interop_change AFTER INSERT OR UPDATE OR DELETE ON /* schema */river_leader
EXECUTE FUNCTION /* schema */interop_change();
CREATE TRIGGER interop_change AFTER INSERT OR UPDATE OR DELETE ON /* schema */river_queue
EXECUTE FUNCTION /* schema */interop_change();
-- A schema that only River's migrations made has no limits, no dead letters and no archive.
DO $do$
BEGIN
    IF to_regclass('/* schema */millhand_limit') IS NOT NULL THEN
        CREATE TRIGGER interop_change AFTER INSERT OR UPDATE OR DELETE ON /* schema */millhand_limit
        EXECUTE FUNCTION /* schema */interop_change();
        CREATE TRIGGER interop_change AFTER INSERT OR UPDATE OR DELETE ON /* schema */millhand_limited_job
        EXECUTE FUNCTION /* schema */interop_change();
    END IF;
    IF to_regclass('/* schema */millhand_archive_file') IS NOT NULL THEN
        CREATE TRIGGER interop_change AFTER INSERT OR UPDATE OR DELETE ON /* schema */millhand_archive_file
        EXECUTE FUNCTION /* schema */interop_change();
    END IF;
    IF to_regclass('/* schema */millhand_dead_job') IS NOT NULL THEN
        CREATE TRIGGER interop_change AFTER INSERT OR UPDATE OR DELETE ON /* schema */millhand_dead_job
        EXECUTE FUNCTION /* schema */interop_change();
    END IF;
END
$do$;
"""
_DROP_CHANGE_TRIGGERS = "DROP FUNCTION /* schema */interop_change CASCADE"


@dataclass(frozen=True, kw_only=True)
class Periodic:
    """A periodic job, in either language. If it is aligned, it is due at whole multiples of its seconds."""

    id: str
    kind: str
    opts: Opts
    seconds: float
    is_aligned: bool = False
    run_on_start: bool = False


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a working client. The defaults make tests fast, and the client does not lead."""

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
    queues: Mapping[str, int | QueueConfig]  # with limits only for Python
    rescue_after_seconds: float
    retention_seconds: Mapping[str, float]
    soft_stop_seconds: float


class Member(Protocol):
    """A working client."""

    async def stop(self, *, cancel: bool = False) -> None:
        """Stop; `cancel` cancels attempts at once."""
        ...

    async def release(self, id: int) -> None:
        """Continue an attempt that holds."""
        ...

    async def executed(self) -> list[dict[str, int]]:
        """Return the attempts that started, in order."""
        ...


class Control(Protocol):
    """The interface that inserts jobs and controls them."""

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
        """Return a page: its IDs, and the cursor of the next page."""
        ...

    async def insert(self, *acts: Act, kind: str = "act", **opts: Any) -> int:
        """Insert one job with a script, and return its id."""
        ...


class Harness:
    """One schema, emptied for each test, with River's program on it."""

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
        self.address = driver.address
        self.pool_size = driver.pool_size
        self.schema = driver.schema
        self.events = program.events = EventLog()
        self.url = url
        self._changed = asyncio.Event()
        self._program_path = program_path
        self._python = Client(url, Config(schema=driver.schema, client_id="python_control"))

    # Clients.

    @contextlib.asynccontextmanager
    async def working(
        self, language: Language, id: str = "", *, program: RiverProgram | None = None, **settings: Any
    ) -> AsyncIterator[Member]:
        """Start a client that works the scripts of `kinds`, and stop it at the end."""
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

    def control(self, language: Language) -> Control:
        """Return the control of a language."""
        return GoControl(self.go, self.schema) if language == "go" else PythonControl(self._python)

    @contextlib.asynccontextmanager
    async def another_river(self, **environment: str) -> AsyncIterator[RiverProgram]:
        """Start one more process of River's program, which a test may kill. It records into the same `events`."""
        async with started_river(self._program_path, self.url, environment) as program:
            program.events = self.events
            yield program

    @contextlib.asynccontextmanager
    async def killable(self, language: Language, id: str) -> AsyncIterator[RiverProgram]:
        """Start a client that works and may lead, in a process of its own, which a test may kill."""
        if language == "go":
            async with self.another_river() as program:
                queues = {"default": 10}
                await program.call("start", id=id, kinds=["act"], queues=queues, schema=self.schema)
                yield program
            return
        command = (sys.executable, str(Path(__file__).parent / "python_member.py"), self.url, self.schema, id)
        async with started(command) as program:
            program.events = self.events
            await self.events.wait("started", client=id)
            yield program

    # Rows and events.

    async def row(self, id: int) -> Row:
        """Return a row as JSON, with its times as texts."""
        rows = await self.rows("WHERE id = $1", id)
        assert rows, f"job {id} must be there"
        return rows[0]

    async def rows(self, condition: str = "", *parameters: object) -> list[Row]:
        """Return rows, ordered by ID."""
        sql = f"SELECT to_jsonb(job) FROM {self.prefix}river_job AS job {condition} ORDER BY id"
        return [json.loads(row[0]) for row in await self.connection.fetch(sql, *parameters)]

    async def fetch(self, sql: str, *parameters: object) -> list[asyncpg.Record]:
        """Run SQL, with the schema in place of `/* schema */`."""
        return await self.connection.fetch(sql.replace("/* schema */", self.prefix), *parameters)

    async def record_dead_jobs_as_copied(self) -> None:
        """
        Record that a leader has copied all discards until now.

        Otherwise a new leader's cleaner waits six minutes for the second pass, or not at all if it comes before the first.
        """
        await self.fetch(
            "INSERT INTO /* schema */millhand_dead_job_cursor (settled_to, seen_at, seen_xid) "
            "VALUES (now(), now(), pg_current_xact_id()) "
            "ON CONFLICT (name) DO UPDATE SET settled_to = excluded.settled_to"
        )

    async def until(self, condition: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Return the first true result of `condition`, which is called again after each change of a table."""
        try:
            async with asyncio.timeout(GENEROUS_SECONDS):
                while not (met := await condition()):
                    await self._changed.wait()
                    self._changed.clear()
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
        """Return a list that grows by the payload of each notification of an insert; wait with `until_notified`."""
        notifications: list[Row] = []

        def receive(*words: Any) -> None:
            notifications.append(json.loads(words[3]))
            self._notice_change()

        await self.connection.add_listener(f"{self.schema}.river_insert", receive)
        return notifications

    async def until_notified(self, notifications: list[Row], count: int) -> None:
        """Return when `count` notifications arrived."""

        async def condition() -> bool:
            return len(notifications) >= count

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

    # Set-up.

    async def open(self) -> None:
        await self.driver.pool.execute_script(_ADD_CHANGE_TRIGGERS, timeout_seconds=GENEROUS_SECONDS)
        await self.connection.add_listener("interop_change", self._notice_change)
        await self._python.start()

    async def close(self) -> None:
        await self._python.stop()
        await self.connection.remove_listener("interop_change", self._notice_change)
        await self.driver.pool.execute_script(_DROP_CHANGE_TRIGGERS, timeout_seconds=GENEROUS_SECONDS)

    def _notice_change(self, *_: object) -> None:
        self._changed.set()

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
        scripted = ScriptedWorkers(id, self.events, is_quiet=settings.is_quiet, url=self.url)
        client = Client(self.url, self._python_config(id, settings, scripted))
        async with asyncio.TaskGroup() as readers:
            if not settings.is_quiet:
                readers.create_task(self._record_events(id, client.subscribe()))
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
            heartbeat_interval=None,
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

    async def _record_events(self, id: str, events: Subscription[Event]) -> None:
        async for event in events:
            line: Row = {"event": event.kind.value, "client": id}
            if event.job is None:
                line["queue"] = event.queue
            else:
                line |= {"job": event.job.id, "state": event.job.state.value}
            self.events.record(line)


class SkewedClock(SystemClock):
    """A clock that is always wrong by `offset`."""

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
    """The methods that both controls share."""

    async def insert_many(self, jobs: Sequence[Row]) -> list[Row]:
        raise NotImplementedError

    async def insert(self, *acts: Act, kind: str = "act", **opts: Any) -> int:
        [inserted] = await self.insert_many([{"kind": kind, "args": {"do": acts}, "opts": opts}])
        id: int = inserted["id"]
        return id


@dataclass
class GoControl(Scripting):
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
class PythonControl(Scripting):
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
    """Return the options that River's program receives as JSON."""
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
    """A schedule that is due at whole multiples of an interval, under any leader."""

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
