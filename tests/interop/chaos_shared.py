"""
Run River and Millhand on one queue with a shared limit: three working clients of each language, and kills of both.

    python tests/interop/chaos_shared.py --seed 1

Python, Go with `Pending`, and Go without it insert in turn. When all jobs are finalized, the audit judges the journals: of
the jobs that Python inserted, or Go as pending, never more ran at once than the limit allows. What Go inserts without
`Pending` its workers may fetch before a leader lets it wait; those jobs are only counted as finished.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from chaos_audit import Evidence, audit
from chaos_journal import Execution, read_journals
from chaos_plan import HELD_KIND, ChaosJob, now, plan
from chaos_report import Report, counts
from chaos_river import Fleet, server_url
from chaos_rows import row_of
from interop_harness import LANGUAGES, Control, GoControl, PythonControl
from river_program import built_river, started_river

from millhand.client import Client
from millhand.core.config import Config
from millhand.core.limit import Limit
from new_schema import new_schema

QUEUE = "shared"
LIMIT = Limit(at_once=6, shared=True)
BATCH_SIZE = 5
WORK_MS = (20, 100, 200, 400)
WAYS = ("python", "go pending", "go")
# How long all may take behind the last insert before it is called lost.
DRAIN_SECONDS = 120.0


@dataclass(kw_only=True)
class SharedOptions:
    """
    Size and length of a run.

    A killed client's slots are free when its jobs are rescued. Leaders are asked to resign each `rescue_seconds`, because a
    rescuer of River's looks when a term begins, and otherwise each half a minute.
    """

    jobs: int
    seconds: float
    seed: int
    kill_seconds: float = 5.0
    rescue_seconds: float = 5.0


@dataclass(kw_only=True)
class SharedReport(Report):
    most_at_once: int
    num_kills: int


@dataclass
class Insert:
    """What was inserted: the way and the answers of each job of the plan."""

    ways: dict[int, str] = field(default_factory=dict)
    skipped: dict[int, list[bool]] = field(default_factory=dict)


class SharedLoad:
    """One run, on an empty schema."""

    def __init__(self, url: str, schema: str, options: SharedOptions) -> None:
        self._inserted = Insert()
        self._options = options
        self._plan = shared_plan(options.seed, options.jobs)
        self._schema = schema
        self._url = url

    async def run(self, directory: Path) -> SharedReport:
        """Insert, work, kill and audit."""
        options = self._options
        program = Path(shutil.copy(built_river(), directory / "river"))
        connection = await asyncpg.connect(self._url)
        fleet = Fleet(
            self._url,
            self._schema,
            directory,
            program,
            options.rescue_seconds,
            queues={QUEUE: 10},
            limits={QUEUE: LIMIT.to_json()},
        )
        async with started_river(program, self._url) as river:
            # A client that only inserts, and started before there was any limit, would not know it.
            async with (
                fleet,
                Client(self._url, Config(schema=self._schema, client_id="control")) as client,
                asyncio.TaskGroup() as others,
            ):
                go, python = GoControl(river, self._schema), PythonControl(client)
                resigning = others.create_task(self._resign((go, python)))
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._kill(fleet))
                    both.create_task(self._insert(go, python))
                await self._drained(connection)
                resigning.cancel()
            evidence = await self._evidence(connection, directory, fleet)
            left_behind = await self._left_behind(connection)
        await connection.close()
        return report(options, evidence, self._inserted.ways, left_behind)

    async def _insert(self, go: Control, python: Control) -> None:
        began_at = time.monotonic()
        batches = [self._plan[n : n + BATCH_SIZE] for n in range(0, len(self._plan), BATCH_SIZE)]
        for number, batch in enumerate(batches):
            way = WAYS[number % len(WAYS)]
            jobs = [job.inserted(now()) for job in batch]
            for job in jobs:
                job["opts"] |= {"pending": True} if way == "go pending" else {}
            results = await (python if way == "python" else go).insert_many(jobs)
            for job, result in zip(batch, results, strict=True):
                self._inserted.ways[job.n] = way
                self._inserted.skipped[job.n] = [result["skipped"]]
            due_at = began_at + self._options.seconds * (number + 1) / len(batches)
            await asyncio.sleep(max(0.0, due_at - time.monotonic()))

    async def _kill(self, fleet: Fleet) -> None:
        chance = random.Random(self._options.seed)  # noqa: S311 - a seed must give the same victims again
        began_at = time.monotonic()
        for number in range(1, int(self._options.seconds / self._options.kill_seconds) + 1):
            await asyncio.sleep(max(0.0, began_at + number * self._options.kill_seconds - time.monotonic()))
            await asyncio.gather(*(fleet.kill_one(language, chance) for language in LANGUAGES))

    async def _resign(self, controls: Sequence[Control]) -> None:
        for number in count():
            await asyncio.sleep(self._options.rescue_seconds)
            await controls[number % 2].request_resign()

    async def _drained(self, connection: asyncpg.Connection) -> None:
        sql = f"""
            SELECT EXISTS (SELECT FROM {self._schema}.river_job WHERE finalized_at IS NULL)
            OR EXISTS (SELECT FROM {self._schema}.millhand_limited_job)
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while await connection.fetchval(sql):  # noqa: ASYNC110 - no event wakes it
                    await asyncio.sleep(0.5)

    async def _evidence(self, connection: asyncpg.Connection, directory: Path, fleet: Fleet) -> Evidence:
        sql = f"""
            SELECT id, args, attempt, attempted_by, errors, metadata, state::text, unique_key
            FROM {self._schema}.river_job ORDER BY id
        """
        return Evidence(
            executions=read_journals(directory),
            killed_at=fleet.killed_at,
            plan=self._plan,
            rows=[row_of(dict(record)) for record in await connection.fetch(sql)],
            skipped=self._inserted.skipped,
        )

    async def _left_behind(self, connection: asyncpg.Connection) -> list[str]:
        waiting = await connection.fetch(f"SELECT * FROM {self._schema}.millhand_limited_job")
        partitions = await connection.fetch(
            f"SELECT * FROM {self._schema}.millhand_limit_partition WHERE running <> 0"
        )
        return [
            *(f"no job must wait for a slot or have one in the end, got {dict(row)}" for row in waiting),
            *(f"a partition must count no slots in the end, got {dict(row)}" for row in partitions),
        ]


def shared_plan(seed: int, num_jobs: int) -> list[ChaosJob]:
    """Return the jobs of a seed: none that waits to be cancelled, and none that is unique."""
    chance = random.Random(f"{seed} shared")  # noqa: S311 - a seed must give the same jobs again
    return [
        replace(job, is_unique=False, queue=QUEUE, work_ms=chance.choice(WORK_MS))
        for job in plan(seed, num_jobs)
        if job.kind != HELD_KIND
    ]


def exceeded(
    executions: Sequence[Execution], killed_at: dict[str, float], at_once: int
) -> tuple[int, Iterator[str]]:
    """Return the most executions at once, and a sentence for each that was one too many."""
    running: list[tuple[Execution, float]] = []
    most, found = 0, []
    for one in executions:
        running = [(other, ended_at) for other, ended_at in running if ended_at > one.began_at]
        ended_at = one.ended_at if one.ended_at is not None else killed_at.get(one.client, float("inf"))
        running.append((one, ended_at))
        most = max(most, len(running))
        if len(running) > at_once:
            which = ", ".join(f"job {other.job} at {other.client}" for other, _ in running)
            found.append(
                f"at_once must be at most {at_once}, got {len(running)} at {one.began_at:.3f}: {which}"
            )
    return most, iter(found)


def report(
    options: SharedOptions, evidence: Evidence, ways: dict[int, str], left_behind: Sequence[str]
) -> SharedReport:
    """Return the figures and the result of the audit."""
    of_row = {row.id: ways[row.args["n"]] for row in evidence.rows}
    limited = [one for one in evidence.executions if of_row[one.job] != "go"]
    most, found = exceeded(limited, dict(evidence.killed_at), LIMIT.at_once or 0)
    by_language = Counter(one.client.partition("_")[0] for one in limited)
    figures = {
        "seed": str(options.seed),
        "jobs": f"{len(evidence.rows):,}: {counts(Counter(row.state for row in evidence.rows))}",
        "inserted by": counts(Counter(of_row.values())),
        "executions under the limit": f"{len(limited):,}: {counts(by_language)}",
        "most at once": f"{most} of {LIMIT.at_once}",
        "kills": str(len(evidence.killed_at)),
        "rescued": f"{sum(len(row.rescued) for row in evidence.rows):,} attempts",
    }
    return SharedReport(
        figures=figures,
        most_at_once=most,
        num_kills=len(evidence.killed_at),
        violations=[*found, *left_behind, *audit(evidence)],
    )


async def shared_chaos(url: str, options: SharedOptions, directory: Path) -> SharedReport:
    """Run once, in a new schema."""
    async with new_schema(url, "shared") as schema:
        return await SharedLoad(url, schema, options).run(directory)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=40.0, help="over which the jobs are inserted")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--database-url", help="a server of yours instead of the embedded one")
    given: Any = parser.parse_args()
    options = SharedOptions(jobs=given.jobs, seconds=given.seconds, seed=given.seed)
    with tempfile.TemporaryDirectory(prefix="millhand-shared-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the user that a root's server runs as has to enter it
        with server_url(given.database_url, directory) as url:
            reported = asyncio.run(shared_chaos(url, options, directory))
    print(reported)
    sys.exit(1 if reported.violations else 0)


if __name__ == "__main__":
    main()
