"""
Run River and Millhand under load: three working clients of each language, and regular kills of both.

    python tests/interop/chaos_river.py --jobs 100000 --seconds 180 --seed 1

Both languages insert the jobs of a plan (`chaos_plan.py`), six processes work them, whoever is elected leads, and one
process of each language is killed every five seconds and another started in its place. When all jobs are finalized, the
audit (`chaos_audit.py`) judges tables and journals. Prints what happened; ends with 1 if anything is wrong. The same
seed gives the same jobs, the same ends of their attempts and the same victims; what runs when is the machine's affair.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Self

import asyncpg
from chaos_audit import Evidence, audit, longest_wait_seconds
from chaos_journal import read_journals
from chaos_plan import HELD_KIND, KINDS, QUEUES, ChaosJob, now, plan
from chaos_report import Report, counts
from chaos_rows import FINAL_STATES, row_of
from interop_harness import LANGUAGES, Control, GoControl, Language, PythonControl
from river_program import RiverProgram, built_river, started, started_river

sys.path.append(str(Path(__file__).parents[1]))
from millhand.client import Client
from millhand.core.config import Config
from millhand.embedded import embedded_postgres
from new_schema import new_schema

NUM_PROCESSES = 3  # of each language
BATCH_SIZE = 250
KILL_SECONDS = 5.0
MAX_WORKERS = 20  # of each queue
RESCUE_SECONDS = 10.0
RETRY_SECONDS = 0.05
# How long all may take behind the last insert before it is called lost.
DRAIN_SECONDS = 240.0
POSTGRES_SETTINGS = {"max_connections": "300"}


@dataclass(kw_only=True)
class Options:
    """
    Size and length of a run. Jobs are rescued after `rescue_seconds`; a job runs for at most four fifths of that.

    A rescuer sweeps when a term begins and every half a minute. Behind the last kill leaders are therefore asked to
    resign every `rescue_seconds`, which makes the tail of a run shorter.
    """

    jobs: int
    seconds: float
    seed: int
    kill_seconds: float = KILL_SECONDS
    rescue_seconds: float = RESCUE_SECONDS


@dataclass(kw_only=True)
class RiverReport(Report):
    num_kills: int


@contextlib.asynccontextmanager
async def start_member(
    language: Language, program: Path, url: str, settings: dict[str, Any]
) -> AsyncIterator[RiverProgram]:
    """Start a working client in its own process, wait until it works, and stop it at the end."""
    if language == "go":
        async with started_river(program, url) as process:
            await process.call("chaos", **settings)
            yield process
        return
    member = str(Path(__file__).with_name("chaos_member.py"))
    async with started((sys.executable, member, url, json.dumps(settings))) as process:
        await process.events.wait("started", client=settings["id"])
        yield process


class Fleet:
    """
    The working processes. `killed_at` has the time at which each killed process was dead.

    `queues` has the number of workers of each queue, and `limits` what the clients in Python declare.
    """

    def __init__(
        self,
        url: str,
        schema: str,
        directory: Path,
        program: Path,
        rescue_seconds: float,
        *,
        queues: Mapping[str, int] | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        self._limits = limits or {}
        self._queues = queues or dict.fromkeys(QUEUES, MAX_WORKERS)
        self.killed_at: dict[str, float] = {}
        self._directory = directory
        self._numbers = count(1)
        self._program = program
        self._rescue_seconds = rescue_seconds
        self._schema = schema
        self._stack = contextlib.AsyncExitStack()
        self._url = url
        self._working: dict[Language, list[tuple[str, RiverProgram]]] = {"go": [], "python": []}

    async def __aenter__(self) -> Self:
        # Ours first, for one of them to lead before River's come: those bid again at once when they are asked to resign.
        for language in reversed(LANGUAGES):
            await asyncio.gather(*(self._start(language) for _ in range(NUM_PROCESSES)))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop all processes in order, so that they write their outcomes."""
        await self._stack.aclose()

    async def kill_one(self, language: Language, chance: random.Random) -> None:
        """Kill a process, and start another one instead."""
        id, process = self._working[language].pop(chance.randrange(NUM_PROCESSES))
        await process.kill()
        self.killed_at[id] = time.time()
        await self._start(language)

    async def _start(self, language: Language) -> None:
        id = f"{language}_{next(self._numbers)}"
        settings = {
            "id": id,
            "job_timeout_seconds": 0.8 * self._rescue_seconds,
            "journal": str(self._directory / f"{id}.journal"),
            "kinds": KINDS,
            "limits": self._limits,
            "queues": self._queues,
            "rescue_seconds": self._rescue_seconds,
            "retry_seconds": RETRY_SECONDS,
            "schema": self._schema,
        }
        starting = start_member(language, self._program, self._url, settings)
        process = await self._stack.enter_async_context(starting)
        self._working[language].append((id, process))


class Load:
    """One run, on an empty schema."""

    def __init__(self, url: str, schema: str, options: Options) -> None:
        self._url = url
        self._schema = schema
        self._options = options
        self._plan = plan(options.seed, options.jobs)
        self._skipped: dict[int, list[bool]] = defaultdict(list)
        self._terms: set[tuple[str, datetime]] = set()

    async def run(self, directory: Path) -> RiverReport:
        """Insert, work, kill and audit."""
        program = Path(shutil.copy(built_river(), directory / "river"))
        async with (
            self._connected() as connection,
            started_river(program, self._url) as river,
            Client(self._url, Config(schema=self._schema, client_id="control")) as client,
        ):
            controls = (GoControl(river, self._schema), PythonControl(client))
            async with Fleet(
                self._url, self._schema, directory, program, self._options.rescue_seconds
            ) as fleet:
                began_at = time.monotonic()
                is_worked_off = asyncio.Event()
                async with asyncio.TaskGroup() as others:
                    cancelling = others.create_task(self._cancel_held(connection, controls))
                    killing = others.create_task(self._kill(fleet, is_worked_off))
                    await self._insert(controls)
                    await self._worked_off()
                    is_worked_off.set()
                    await killing
                    insert_seconds = time.monotonic() - began_at
                    await self._drained(controls)
                    cancelling.cancel()
                seconds = time.monotonic() - began_at
            evidence = await self._evidence(connection, directory, fleet)
        leaders = Counter(_language(leader) for leader, _ in self._terms)
        return report(self._options, evidence, leaders, insert_seconds, seconds)

    async def _insert(self, controls: Sequence[Control]) -> None:
        """Insert in both languages in turn, evenly over the time, and later each unique job again in the other."""
        batches = [self._plan[n : n + BATCH_SIZE] for n in range(0, len(self._plan), BATCH_SIZE)]
        began_at = time.monotonic()
        again: list[ChaosJob] = []
        for number, batch in enumerate(batches):
            control, other = controls[number % 2], controls[(number + 1) % 2]
            await asyncio.gather(self._insert_batch(control, batch), self._insert_batch(other, again))
            again = [job for job in batch if job.is_unique]
            due_at = began_at + self._options.seconds * (number + 1) / len(batches)
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))
        await self._insert_batch(controls[0], again)

    async def _insert_batch(self, control: Control, batch: Sequence[ChaosJob]) -> None:
        if not batch:
            return
        inserted_at = now()
        results = await control.insert_many([job.inserted(inserted_at) for job in batch])
        for job, result in zip(batch, results, strict=True):
            self._skipped[job.n].append(result["skipped"])

    async def _kill(self, fleet: Fleet, ended: asyncio.Event) -> None:
        chance = random.Random(self._options.seed)  # noqa: S311 - a seed must give the same victims again
        began_at = time.monotonic()
        for number in count(1):
            due_seconds = began_at + number * self._options.kill_seconds - time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), max(0.0, due_seconds))
                return
            await asyncio.gather(*(fleet.kill_one(language, chance) for language in LANGUAGES))

    async def _cancel_held(self, connection: asyncpg.Connection, controls: Sequence[Control]) -> None:
        """Cancel the jobs that hold, in both languages in turn, and record the leader."""
        sql = f"""
            SELECT id FROM {self._schema}.river_job
            WHERE kind = $1 AND finalized_at IS NULL AND NOT metadata ? 'cancel_attempted_at'
        """
        for number in count():
            ids = [record["id"] for record in await connection.fetch(sql, HELD_KIND)]
            await asyncio.gather(*(controls[(number + id) % 2].cancel(id) for id in ids))
            terms = await connection.fetch(f"SELECT leader_id, elected_at FROM {self._schema}.river_leader")
            self._terms.update((term["leader_id"], term["elected_at"]) for term in terms)
            await asyncio.sleep(0.2)

    async def _worked_off(self) -> None:
        """Return when fewer jobs wait than one insert adds."""
        sql = f"SELECT count(*) FROM {self._schema}.river_job WHERE state = 'available'"
        async with self._connected() as connection:
            while await connection.fetchval(sql) > BATCH_SIZE:  # noqa: ASYNC110 - no event wakes it
                await asyncio.sleep(1.0)

    async def _drained(self, controls: Sequence[Control]) -> None:
        """Return when all jobs are finalized, or after the longest wait."""
        sql = f"SELECT EXISTS (SELECT FROM {self._schema}.river_job WHERE finalized_at IS NULL)"
        async with self._connected() as connection:
            for number in range(int(DRAIN_SECONDS)):
                if not await connection.fetchval(sql):
                    return
                if (number + 1) % self._options.rescue_seconds == 0:
                    await controls[number % 2].request_resign()
                await asyncio.sleep(1.0)

    async def _evidence(self, connection: asyncpg.Connection, directory: Path, fleet: Fleet) -> Evidence:
        sql = f"""
            SELECT id, args, attempt, attempted_by, errors, metadata, state::text, unique_key
            FROM {self._schema}.river_job ORDER BY id
        """
        rows = [row_of(dict(record)) for record in await connection.fetch(sql)]
        return Evidence(
            executions=read_journals(directory),
            killed_at=fleet.killed_at,
            plan=self._plan,
            rows=rows,
            skipped=self._skipped,
        )

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self._url)
        try:
            yield connection
        finally:
            await connection.close()


def report(
    options: Options, evidence: Evidence, leaders: Counter[str], insert_seconds: float, seconds: float
) -> RiverReport:
    """Return the figures and the result of the audit."""
    states = Counter(row.state for row in evidence.rows)
    by_language = Counter(_language(one.client) for one in evidence.executions)
    killed = Counter(_language(client) for client in evidence.killed_at)
    acts = Counter(one.act for one in evidence.executions)
    num_rescued = sum(len(row.rescued) for row in evidence.rows)
    num_written = sum(1 for row in evidence.rows if row.state in FINAL_STATES)
    cut_short = sum(1 for one in evidence.executions if one.ended_at is None)
    figures = {
        "seed": str(options.seed),
        "jobs": f"{num_written:,} finalized of {options.jobs:,}: {counts(states)}",
        "inserted in": f"{insert_seconds:.0f} s, {options.jobs / insert_seconds:,.0f} jobs/s",
        "all finalized after": f"{seconds:.0f} s",
        "executions": f"{len(evidence.executions):,}: {counts(by_language)}",
        "ends": counts(acts),
        "kills": f"{len(evidence.killed_at)}: {counts(killed)}",
        "cut short by a kill": f"{cut_short:,} executions",
        "terms of leaders": f"{leaders.total()}: {counts(leaders)}",
        "rescued": f"{num_rescued:,} attempts",
        "longest wait after a kill": f"{longest_wait_seconds(evidence):.1f} s",
        "unique inserts skipped": f"{sum(map(sum, evidence.skipped.values())):,}",
    }
    return RiverReport(num_kills=len(evidence.killed_at), violations=audit(evidence), figures=figures)


def _language(client: str) -> str:
    """Return the language of a client by its ID."""
    return client.split("_", maxsplit=1)[0]


@contextlib.contextmanager
def server_url(given: str | None, directory: Path) -> Iterator[str]:
    """Start a PostgreSQL with durable settings, or use the given one."""
    if given is not None:
        yield given
        return
    with embedded_postgres(directory / "postgres", POSTGRES_SETTINGS) as server:
        yield server.url


async def chaos(url: str, options: Options, directory: Path) -> RiverReport:
    """Run once, in a new schema."""
    async with new_schema(url, "chaos") as schema:
        return await Load(url, schema, options).run(directory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=180.0, help="over which the jobs are inserted")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--database-url", help="a server of yours instead of the embedded one")
    parser.add_argument("--keep", type=Path, metavar="DIRECTORY", help="leave the journals there")
    given = parser.parse_args()
    options = Options(jobs=given.jobs, seconds=given.seconds, seed=given.seed)
    with tempfile.TemporaryDirectory(prefix="millhand-chaos-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the user that a root's server runs as has to enter it
        journals = given.keep or directory
        journals.mkdir(parents=True, exist_ok=True)
        with server_url(given.database_url, directory) as url:
            reported = asyncio.run(chaos(url, options, journals))
    print(reported)
    sys.exit(1 if reported.violations else 0)


if __name__ == "__main__":
    main()
