"""
Measure the web page: the server time of each page on a large table, one request and ten requests at a time.

    python benchmarks/web_pages.py --rows 100000
    python benchmarks/web_pages.py --rows 10000000 --directory ../millhand-web-tables --river-ui

Without `--url` it starts a PostgreSQL of its own and fills a table, as `web_tables.py` does; a `--directory` keeps it. With
`--river-ui` River UI serves the same table, and a page is compared with the slowest of the requests that the same view of
River UI sends at once.
Times are those of whole requests on the loopback interface, with compression.
CPU is in milliseconds a request, of the page's process and of all of PostgreSQL. It needs Linux, and other programs hardly
change it. Each page is warmed up before it is measured.
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

import asyncpg
from web_cpu import cpu_seconds, parent_of
from web_load import Latencies, measure
from web_tables import database_url, prepare

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines
from millhand.embedded import embedded_postgres

SERVER = Path(__file__).with_name("web_page_server.py")
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
    ("Errors", "/errors", ()),
    ("History", "/history", ()),
)  # fmt: skip


@contextlib.asynccontextmanager
async def filled(options: argparse.Namespace) -> AsyncIterator[str]:
    """Return the URL of a database with a filled table: the one that is given, or one of this program."""
    if options.url:
        yield options.url
        return
    with contextlib.ExitStack() as stack:
        directory = options.directory
        if directory is None:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="millhand-bench-"))
            os.chmod(directory, 0o755)  # noqa: PTH101, S103 - root's PostgreSQL runs as another user
        server = stack.enter_context(embedded_postgres(Path(directory), {"max_wal_size": "8GB"}))
        url = await database_url(server.url, options.rows)
        await prepare(url, options.rows)
        driver = AsyncpgDriver(url)
        await driver.open()
        for line in lines():  # a kept directory may be older
            await Migrator(driver, line).up()
        await driver.pool.execute_script(QUEUES)
        await driver.close()
        yield url


QUEUES = """
INSERT INTO river_queue (name, updated_at) SELECT 'queue_' || n, now() FROM generate_series(0, 10) AS n
ON CONFLICT (name) DO UPDATE SET updated_at = excluded.updated_at
"""


@contextlib.contextmanager
def page_server(url: str, schema: str) -> Iterator[tuple[str, int]]:
    """Serve the web page in a process of its own, and return its address and its id."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        descriptor = listener.fileno()
        process = subprocess.Popen(
            [sys.executable, str(SERVER), url, schema, str(descriptor)], pass_fds=[descriptor]
        )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", process.pid
        finally:
            process.terminate()
            process.wait()


def measured(address: str, path: str, num_requests: int) -> list[Latencies]:
    """Measure one path: for each number of callers."""
    measure(address, path, requests=WARM_UP, callers=1)
    return [measure(address, path, requests=num_requests, callers=callers) for callers in CALLERS]


def measured_of_river_ui(address: str, path: str) -> Latencies:
    """Measure one request of River UI, one at a time: ten slow ones at once are answered with 503."""
    measure(address, path, requests=2, callers=1)
    return measure(address, path, requests=WARM_UP, callers=1)


def row(name: str, ours: Sequence[Latencies], cpu: Sequence[float], theirs: Latencies | None) -> str:
    """Return a line of the table."""
    cells = [name, *(f"{one.p50:.1f} / {one.p95:.1f}" for one in ours), *(f"{ms:.1f}" for ms in cpu)]
    cells += [f"{ours[0].num_bytes / 1000:.1f}"]
    if theirs is not None:
        cells += [f"{theirs.p50:.1f} / {theirs.p95:.1f}", f"{theirs.p50 / ours[0].p50:.1f}"]
    return f"| {' | '.join(cells)} |"


def slowest(measurements: Sequence[Latencies]) -> Latencies:
    """Return, of requests that a browser sends at once, the one for which it waits longest."""
    return max(measurements, key=lambda latencies: latencies.p50)


async def report(options: argparse.Namespace) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(filled(options))
        id = await print_facts(url, options.schema)
        ours, pid = stack.enter_context(page_server(url, options.schema))
        database_pid = await server_pid(url)
        theirs = await stack.enter_async_context(river_ui(url, options.schema)) if options.river_ui else None
        print(HEAD + RIVER_UI_HEAD * bool(theirs))
        print("|---|--:|--:|--:|--:|--:|" + "--:|--:|" * bool(theirs))
        for name, path, requests in PAGES:
            before = cpu_seconds(pid), cpu_seconds(database_pid)
            one = await asyncio.to_thread(measured, ours, path.format(id=id), options.requests)
            num_requests = WARM_UP + len(CALLERS) * options.requests
            after = cpu_seconds(pid), cpu_seconds(database_pid)
            cpu = [(end - begin) * 1000 / num_requests for begin, end in zip(before, after, strict=True)]
            other = [
                await asyncio.to_thread(measured_of_river_ui, theirs, request.format(id=id))
                for request in (requests if theirs else ())
            ]
            print(row(name, one, cpu, slowest(other) if other else None), flush=True)


async def print_facts(url: str, schema: str) -> int:
    """Print what is measured, and return the id of a job in the middle of the table."""
    driver = AsyncpgDriver(url, schema)
    await driver.open()
    [found] = await driver.pool.fetch(FACTS.replace("/* schema */", f'"{schema}".'))
    await driver.close()
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{found['num_rows']:,} rows, PostgreSQL {found['version']}, {load}; p50 / p95 in milliseconds\n")
    return int(found["id"])


HEAD = "| page | one at a time | ten at a time | CPU, page | CPU, database | kB |"
RIVER_UI_HEAD = " River UI, one at a time | ratio |"


async def server_pid(url: str) -> int:
    """Return the process of PostgreSQL whose children serve the connections. It must run on this machine."""
    connection = await asyncpg.connect(url)
    pid = parent_of(await connection.fetchval("SELECT pg_backend_pid()"))
    await connection.close()
    return pid


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
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--river-ui", action="store_true")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--schema", default="public")
    parser.add_argument("--url")
    asyncio.run(report(parser.parse_args()))


if __name__ == "__main__":
    main()
