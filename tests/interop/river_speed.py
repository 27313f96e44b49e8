"""
How fast Millhand is beside River itself, on one machine and one PostgreSQL, with jobs that take 10 ms.

    python tests/interop/river_speed.py

Inserting one by one and a thousand at a time; a worker of each language by itself; one of each on one queue. Languages
take turns, round by round. Quote the ratios: a figure of one machine says nothing about another.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

sys.path.append(str(Path(__file__).parents[1] / "chaos"))  # what is shared with the other load test
from chaos_plan import ASYNC_KIND
from chaos_river import server_url, start_member
from interop_harness import LANGUAGES, Language
from river_program import RiverProgram, built_river, started_river

from millhand.client import Client
from millhand.core.args.codec import RawArgs
from millhand.core.config import Config
from new_schema import new_schema

WORK_MS = 10
MAX_WORKERS = 100
BATCH_SIZE = 1_000
SETTINGS = {
    "job_timeout_seconds": 60.0,
    "kinds": [ASYNC_KIND],
    "limits": {},
    "queues": {"default": MAX_WORKERS},
    "rescue_seconds": 3600.0,
    "retry_seconds": 1.0,
}


@dataclass(kw_only=True)
class Speeds:
    """Jobs a second, by measurement and language, in the order of the rounds."""

    by_name: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))

    def put(self, what: str, who: str, per_second: float) -> None:
        """Add one measurement."""
        self.by_name[what, who].append(per_second)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Sequence[str]:
        lines = ["| jobs/s | River (Go) | Millhand | Millhand by River |", "|---|--:|--:|--:|"]
        for what in dict.fromkeys(what for what, _ in self.by_name):
            go, python = (self.by_name[what, who] for who in LANGUAGES)
            ratios = [ours / theirs for ours, theirs in zip(python, go, strict=True)]
            cells = [what, _spread(go, ",.0f"), _spread(python, ",.0f"), _spread(ratios, ".2f")]
            lines.append(f"| {' | '.join(cells)} |")
        return lines


class Measurement:
    """One schema and both languages."""

    def __init__(self, connection: asyncpg.Connection, url: str, schema: str, directory: Path) -> None:
        self._connection = connection
        self._directory = directory
        self._num_members = 0
        self._schema = schema
        self._url = url

    async def round(self, river: RiverProgram, client: Client, speeds: Speeds, num_jobs: int) -> None:
        """Measure everything once."""
        for what, count, batch in (
            ("inserted one by one", max(1, num_jobs // 10), 1),
            ("inserted a thousand at a time", num_jobs, BATCH_SIZE),
        ):
            for language in LANGUAGES:
                await self._empty()
                seconds = await self._insert(language, river, client, count, batch)
                speeds.put(what, language, count / seconds)
        for language in LANGUAGES:
            await self._filled(river, client, num_jobs)
            speeds.put("worked by one alone", language, (await self._worked(num_jobs, language))[language])
        await self._filled(river, client, num_jobs)
        shares = await self._worked(num_jobs, *LANGUAGES)
        for language in LANGUAGES:
            speeds.put("worked by both, the share of each", language, shares[language])

    async def _insert(
        self, language: Language, river: RiverProgram, client: Client, count: int, batch: int
    ) -> float:
        """Insert jobs, and return the seconds that it took."""
        if language == "go":
            seconds: float = await river.call(
                "insert_measured",
                schema=self._schema,
                count=count,
                batch=batch,
                kind=ASYNC_KIND,
                work_ms=WORK_MS,
            )
            return seconds
        args = RawArgs(ASYNC_KIND, json.dumps({"acts": [], "snooze_at": 0, "snoozes": 0, "work_ms": WORK_MS}))
        began_at = time.perf_counter()
        for done in range(0, count, batch):
            if batch == 1:
                await client.insert(args)
            else:
                await client.insert_many([args] * min(batch, count - done))
        return time.perf_counter() - began_at

    async def _filled(self, river: RiverProgram, client: Client, num_jobs: int) -> None:
        """Insert with both languages before any client starts."""
        await self._empty()
        for language in LANGUAGES:
            await self._insert(language, river, client, num_jobs // 2, BATCH_SIZE)
        await self._connection.execute(f"UPDATE {self._schema}.river_job SET state = 'pending'")
        await self._connection.execute(f"VACUUM ANALYZE {self._schema}.river_job")

    async def _worked(self, num_jobs: int, *languages: Language) -> dict[str, float]:
        """Let a client of each language work all jobs; return the jobs a second of each."""
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(self._member(one)) for one in languages))
            await self._connection.execute(f"UPDATE {self._schema}.river_job SET state = 'available'")
            topic = f"{self._schema}.river_insert"
            await self._connection.fetch("SELECT pg_notify($1, $2)", topic, '{"queue": "default"}')
            await self._all_completed(num_jobs)
        sql = f"""
            SELECT split_part(attempted_by[1], '_', 1) AS language, count(*) AS number,
                extract(epoch FROM max(max(finalized_at)) OVER () - min(min(attempted_at)) OVER ())::float8 AS seconds
            FROM {self._schema}.river_job WHERE attempt = 1 AND errors IS NULL AND cardinality(attempted_by) = 1
            GROUP BY language
        """
        rows = await self._connection.fetch(sql)
        assert sum(row["number"] for row in rows) == num_jobs, "each job must be executed once"
        speeds = {row["language"]: row["number"] / row["seconds"] for row in rows}
        return {language: speeds.get(language, 0.0) for language in languages}

    @contextlib.asynccontextmanager
    async def _member(self, language: Language) -> AsyncIterator[None]:
        self._num_members += 1
        id = f"{language}_{self._num_members}"
        settings = {
            **SETTINGS,
            "id": id,
            "journal": str(self._directory / f"{id}.journal"),
            "schema": self._schema,
        }
        async with start_member(language, self._directory / "river", self._url, settings):
            yield

    async def _all_completed(self, num_jobs: int) -> None:
        sql = f"SELECT count(*) FROM {self._schema}.river_job WHERE state = 'completed'"
        while await self._connection.fetchval(sql) < num_jobs:  # noqa: ASYNC110 - no event wakes it
            await asyncio.sleep(0.2)

    async def _empty(self) -> None:
        await self._connection.execute(f"TRUNCATE {self._schema}.river_job")
        await self._connection.execute("CHECKPOINT")


async def measure(url: str, directory: Path, *, num_rounds: int, num_jobs: int) -> Speeds:
    """Measure in rounds, after one that is ignored."""
    speeds = Speeds()
    program = built_river()
    (directory / "river").symlink_to(program)
    async with (
        new_schema(url, "speed") as schema,
        started_river(program, url) as river,
        _connected(url) as connection,
        Client(url, Config(client_id="control", schema=schema)) as client,
    ):
        measurement = Measurement(connection, url, schema, directory)
        for number in range(num_rounds + 1):
            counted = speeds if number else Speeds()
            await measurement.round(river, client, counted, num_jobs if number else BATCH_SIZE)
            print(f"round {number} of {num_rounds}", file=sys.stderr, flush=True)
    return speeds


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def _spread(values: Sequence[float], form: str) -> str:
    """Return the median and the range of the values."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--database-url", help="a server of yours instead of the embedded one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="millhand-speed-") as name:
        directory = Path(name)
        directory.chmod(0o755)  # the user that a root's server runs as has to enter it
        with server_url(given.database_url, directory) as url:
            print(asyncio.run(measure(url, directory, num_rounds=given.rounds, num_jobs=given.jobs)))


if __name__ == "__main__":
    main()
