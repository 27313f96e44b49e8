"""
Measure the web page: the server time of each page on a large table, one request and ten requests at a time.

    python benchmarks/web_pages.py --rows 100000
    python benchmarks/web_pages.py --url postgresql://… --schema web_1e7 --river-ui

Without `--url` it starts a PostgreSQL of its own with default settings and fills a table. With `--river-ui` River UI serves
the same table, and a page is compared with the slowest of the requests that the same view of River UI sends at once.
Times are those of whole requests on the loopback interface, with compression. Each page is warmed up before it is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from web_load import Latencies, measure

from millhand.driver.asyncpg import AsyncpgDriver
from millhand.embedded import embedded_postgres
from millhand.schema.migrator import Migrator, lines

SERVER = Path(__file__).with_name("web_page_server.py")
FILL_SECONDS = 7_200.0
WARM_UP = 20
CALLERS = (1, 10)
# Name, our path, and the requests of the same view of River UI. `{id}` is that of a job in the middle of the table.
PAGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Overview", "/", ()),
    ("Jobs", "/jobs", ("/api/jobs?limit=20&state=running", "/api/states")),
    ("Jobs, completed", "/jobs?q=state:completed", ("/api/jobs?limit=20&state=completed", "/api/states")),
    ("Jobs, retryable", "/jobs?q=state:retryable", ("/api/jobs?limit=20&state=retryable", "/api/states")),
    ("Jobs, available", "/jobs?q=state:available", ("/api/jobs?limit=20&state=available", "/api/states")),
    ("Job", "/jobs/{id}", ("/api/jobs/{id}",)),
    ("Queues", "/queues", ("/api/queues?limit=20",)),
    ("Fleet", "/fleet", ()),
)  # fmt: skip


async def fill(driver: AsyncpgDriver, num_rows: int) -> None:
    """Migrate and fill the tables: a day of jobs, most of them completed."""
    for line in lines():
        await Migrator(driver, line).up()
    await driver.pool.execute_script(FILL.replace("@rows", str(num_rows)), timeout_seconds=FILL_SECONDS)
    for statement in ("VACUUM ANALYZE /* schema */river_job", "ANALYZE /* schema */river_queue"):
        await driver.pool.execute_script(statement, timeout_seconds=FILL_SECONDS)


FILL = """
INSERT INTO /* schema */river_job (
    state, attempt, max_attempts, attempted_at, created_at, finalized_at, scheduled_at, priority, args, kind, queue, errors,
    attempted_by
)
SELECT
    state::/* schema */river_job_state, CASE WHEN state IN ('available', 'scheduled') THEN 0 ELSE 1 END, 25,
    CASE WHEN state NOT IN ('available', 'scheduled') THEN at END, at - interval '1 s',
    CASE WHEN state IN ('completed', 'discarded', 'cancelled') THEN at + interval '1 s' END,
    CASE WHEN state IN ('scheduled', 'retryable') THEN now() + interval '1 s' * (chance % 20000) ELSE at END,
    1 + (chance % 20 = 0)::int, jsonb_build_object('account_id', chance % 5000, 'to', 'customer' || n || '@shop.example'),
    'kind_' || CASE WHEN chance % 5000 = 0 THEN 60 ELSE chance % 59 END, 'queue_' || chance % 11,
    CASE WHEN state IN ('retryable', 'discarded') THEN ARRAY[jsonb_build_object(
        'at', at, 'attempt', 1, 'error', 'Timeout: no answer from host ' || chance % 100,
        'trace', repeat('  line of a trace', 40)
    )] END,
    CASE WHEN state NOT IN ('available', 'scheduled') THEN ARRAY['client_' || chance % 4] END
FROM (
    SELECT
        n, chance, at,
        CASE
            WHEN n > @rows * 0.988 THEN CASE
                WHEN chance % 100 < 62 THEN 'available' WHEN chance % 100 < 90 THEN 'scheduled'
                WHEN chance % 1000 < 998 THEN 'retryable' ELSE 'running'
            END
            WHEN chance % 1000 < 6 THEN 'discarded' WHEN chance % 1000 < 9 THEN 'cancelled' ELSE 'completed'
        END AS state
    FROM (
        SELECT
            n, abs(hashint8(n)::bigint) AS chance, now() - interval '1 s' * 86400 * (1 - n::float8 / @rows) AS at
        FROM generate_series(1::bigint, @rows) AS n
    ) AS numbered
) AS row;
INSERT INTO /* schema */river_queue (name, updated_at) SELECT 'queue_' || n, now() FROM generate_series(0, 10) AS n;
"""


@contextlib.asynccontextmanager
async def filled(options: argparse.Namespace) -> AsyncIterator[str]:
    """Return the URL of a database with a filled table: the one that is given, or a temporary one."""
    if options.url:
        yield options.url
        return
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as name:
        os.chmod(name, 0o755)  # noqa: PTH101, S103 - root's PostgreSQL runs as another user
        with embedded_postgres(Path(name)) as server:
            driver = AsyncpgDriver(server.url, options.schema)
            await driver.open()
            await fill(driver, options.rows)
            await driver.close()
            yield server.url


@contextlib.contextmanager
def page_server(url: str, schema: str) -> Iterator[str]:
    """Serve the web page in a process of its own, and return its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, str(SERVER), url, schema, str(descriptor)], pass_fds=[descriptor]
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            process.terminate()
            process.wait()


def measured(address: str, path: str, num_requests: int) -> list[Latencies]:
    """Measure one path: for each number of callers."""
    measure(address, path, requests=WARM_UP, callers=1)
    return [measure(address, path, requests=num_requests, callers=callers) for callers in CALLERS]


def row(name: str, ours: Sequence[Latencies], theirs: Sequence[Latencies] | None) -> str:
    """Return a line of the table."""
    cells = [name, *(f"{one.p50:.1f} / {one.p95:.1f}" for one in ours), f"{ours[0].num_bytes / 1000:.1f}"]
    if theirs is not None:
        cells += [f"{one.p50:.1f} / {one.p95:.1f}" for one in theirs]
        cells += [f"{one.p50 / other.p50:.1f}" for one, other in zip(theirs, ours, strict=True)]
    return f"| {' | '.join(cells)} |"


def slowest(measurements: Sequence[Sequence[Latencies]]) -> Sequence[Latencies]:
    """Return, of requests that a browser sends at once, the one for which it waits longest."""
    return max(measurements, key=lambda latencies: latencies[0].p50)


async def report(options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(filled(options))
        id = await print_facts(url, options.schema)
        ours = stack.enter_context(page_server(url, options.schema))
        theirs = await stack.enter_async_context(river_ui(url, options.schema)) if options.river_ui else None
        print(HEAD + RIVER_UI_HEAD * bool(theirs))
        print("|---|--:|--:|--:|" + "--:|--:|--:|--:|" * bool(theirs))
        for name, path, requests in PAGES:
            one = await asyncio.to_thread(measured, ours, path.format(id=id), options.requests)
            other = [
                await asyncio.to_thread(measured, theirs, request.format(id=id), options.requests)
                for request in (requests if theirs else ())
            ]
            print(row(name, one, slowest(other) if other else None), flush=True)


async def print_facts(url: str, schema: str) -> int:
    """Print what is measured, and return the id of a job in the middle of the table."""
    driver = AsyncpgDriver(url, schema)
    await driver.open()
    [found] = await driver.pool.fetch(FACTS.replace("/* schema */", f'"{schema}".'))
    await driver.close()
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{found['num_rows']:,} rows, PostgreSQL {found['version']}, {load}; p50 / p95 in milliseconds\n")
    return int(found["id"])


HEAD = "| page | one at a time | ten at a time | kB |"
RIVER_UI_HEAD = " River UI, one | River UI, ten | ratio, one | ratio, ten |"
FACTS = """
SELECT
    (SELECT reltuples::bigint FROM pg_class WHERE oid = '/* schema */river_job'::regclass) AS num_rows,
    (SELECT max(id) / 2 FROM /* schema */river_job) AS id,
    current_setting('server_version') AS version
"""


@contextlib.asynccontextmanager
async def river_ui(url: str, schema: str) -> AsyncIterator[str]:
    """Serve River UI on the same table; needs Go."""
    sys.path += [
        str(Path(__file__).parents[1] / "tests"),
        str(Path(__file__).parents[1] / "tests" / "interop"),
    ]
    from river_ui import built_ui, started_ui  # noqa: PLC0415 - on the path since here

    with tempfile.TemporaryDirectory() as directory:
        async with started_ui(built_ui(), url, schema, Path(directory)) as ui:
            yield ui.url


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--river-ui", action="store_true")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--schema", default="public")
    parser.add_argument("--url")
    asyncio.run(report(parser.parse_args()))


if __name__ == "__main__":
    main()
