"""
Measure how fast Millhand lists a bucket and compares it with its rows, beside boto3, minio-py and a hand-written loop.

    python benchmarks/orphans.py --peers .venv-peers/bin/python --write benchmarks/results.md

Contenders take turns on the same server in the same round, each in its own process. README.md has the details.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from document import put

from millhand.db.driver.asyncpg import AsyncpgDriver
from millhand.db.schema.migrator import Migrator, lines
from millhand.embedded import embedded_postgres
from millhand.storage.s3_bucket import S3Bucket

PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT / "tests" / "storage")]

from ceph import rgw  # noqa: E402 - the servers of the tests
from servers import CREDENTIALS, seaweed  # noqa: E402

BEGIN_MARK = "<!-- orphan figures: written by benchmarks/orphans.py -->"
END_MARK = "<!-- end of orphan figures -->"
BUCKET = "replay"
PER_DIRECTORY = 1_000
ORPHAN_OF = 10_000  # one of this many objects has no row
PEERS = ("boto3", "minio", "loop")
TITLES = {
    "boto3": "boto3, listing alone",
    "minio": "minio-py, listing alone",
    "loop": "a hand-written loop: boto3 and `= ANY` a page",
    "walk": "`os.walk` and `stat`, in no order",
    "list": "Millhand, listing alone",
    "scan:1": "Millhand, whole run, 1 partition",
    "scan:4": "Millhand, whole run, 4 partitions",
}
SCHEMA = "bench_orphans"
TABLE = "public.bench_objects"
FILL = """
CREATE TABLE {table} (key text COLLATE "C" PRIMARY KEY);
INSERT INTO {table}
SELECT lpad((n / {per})::text, 7, '0') || '/' || lpad((n % {per})::text, 4, '0') || '.bin'
FROM generate_series(0, {count} - 1) AS n
WHERE n % {orphan_of} <> 7;
VACUUM (ANALYZE, FREEZE) {table};
"""
FILL_SECONDS = 3_600.0


@dataclass(frozen=True)
class Scene:
    """A place with objects, and the contenders that are measured there."""

    name: str
    title: str
    contenders: tuple[str, ...]
    num_objects: int
    url: str
    endpoint: str = ""
    is_replayed: bool = False
    split_at: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lap:
    """The figures of one contender in one round."""

    objects: int
    seconds: float
    cpu_seconds: float
    peak_mib: float

    @property
    def per_second(self) -> float:
        return self.objects / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_seconds / self.objects * 1e6


@dataclass
class Results:
    """All laps by contender, in the order of the rounds."""

    scene: Scene
    laps: dict[str, list[Lap]] = field(default_factory=lambda: defaultdict(list))


def key_of(number: int) -> str:
    return f"{number // PER_DIRECTORY:07}/{number % PER_DIRECTORY:04}.bin"


@contextlib.contextmanager
def replayed(options: argparse.Namespace) -> Iterator[Scene]:
    """Yield a server that answers from memory, so that only the client is measured."""
    command = [sys.executable, Path(__file__).with_name("orphans_replay.py"), str(options.objects)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None  # noqa: S101 - of a pipe
        assert server.stdout is not None  # noqa: S101
        endpoint = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        title = "replay server, which answers from memory, so that only the client is measured"
        yield Scene(
            "replay",
            title,
            tuple(name for name in TITLES if name != "walk"),
            options.objects,
            f"s3://{BUCKET}?endpoint_url={endpoint}",
            endpoint,
            is_replayed=True,
        )
        server.stdin.close()


@contextlib.contextmanager
def served(
    name: str, title: str, server: Callable[[], contextlib.AbstractContextManager[str]], num_objects: int
) -> Iterator[Scene]:
    """Yield a real server with objects."""
    with server() as endpoint:
        bucket = S3Bucket(BUCKET, "", endpoint_url=endpoint, is_path_style=True)
        bucket.client.create_bucket(Bucket=BUCKET)
        with ThreadPoolExecutor(16) as threads:
            for _ in threads.map(lambda number: _put(bucket, key_of(number)), range(num_objects)):
                pass
        bucket.close()
        yield Scene(
            name,
            title,
            tuple(one for one in TITLES if one != "walk"),
            num_objects,
            f"s3://{BUCKET}?endpoint_url={endpoint}",
            endpoint,
            split_at=tuple(key_of(num_objects * part // 4 - 1) for part in range(1, 4)),
        )


def _put(bucket: S3Bucket, key: str) -> None:
    bucket.client.put_object(**bucket.object_params(key), Body=b"x")


@contextlib.contextmanager
def in_directory(num_objects: int) -> Iterator[Scene]:
    """Yield a local directory with files."""
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as root:
        for number in range(num_objects):
            path = Path(root, key_of(number))
            if number % PER_DIRECTORY == 0:
                path.parent.mkdir()
            path.touch()
        yield Scene(
            "directory", "local directory", ("walk", "list", "scan:1"), num_objects, Path(root).as_uri()
        )


def scenes(options: argparse.Namespace) -> Iterator[contextlib.AbstractContextManager[Scene]]:
    if "replay" in options.only:
        yield replayed(options)
    if "rgw" in options.only:
        title = "Ceph's gateway, a real server that lists in order"
        yield served("rgw", title, rgw, options.server_objects)
    if "seaweed" in options.only:
        title = "SeaweedFS, a real server that lists by directory"
        yield served("seaweed", title, seaweed, options.server_objects)
    if "directory" in options.only:
        yield in_directory(options.files)


def measure(scene: Scene, database: str, options: argparse.Namespace) -> Results:
    """Run one round that does not count, and then those that do."""
    results = Results(scene)
    asyncio.run(fill(database, scene.num_objects))
    for number in range(options.rounds + 1):
        log(f"{scene.name}: round {number} of {options.rounds}" if number else f"{scene.name}: warming up")
        for contender in scene.contenders:
            if contender in PEERS and options.peers is None:
                continue
            lap = run_contender(scene, contender, database, options)
            log(f"  {contender}: {lap.per_second:,.0f} objects/s, {lap.cpu_us:.1f} µs of CPU an object")
            if number:
                results.laps[contender].append(lap)
    return results


async def fill(database: str, num_objects: int) -> None:
    """Create the rows of this many objects, and a ledger without any run."""
    driver = AsyncpgDriver(database, SCHEMA)
    await driver.open()
    try:
        await driver.pool.execute_script(
            f"DROP TABLE IF EXISTS {TABLE}; DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"
        )
        await driver.pool.execute_script(f"CREATE SCHEMA {SCHEMA}")
        filled = FILL.format(table=TABLE, count=num_objects, per=PER_DIRECTORY, orphan_of=ORPHAN_OF)
        for statement in filled.strip().split(";\n"):
            await driver.pool.execute_script(statement, timeout_seconds=FILL_SECONDS)
        for line in lines():
            await Migrator(driver, line).up()
    finally:
        await driver.close()


def run_contender(scene: Scene, contender: str, database: str, options: argparse.Namespace) -> Lap:
    name, _, partitions = contender.partition(":")
    question: dict[str, Any] = {
        "bucket": BUCKET,
        "partitions": int(partitions or 1),
        "database": database,
        "endpoint": scene.endpoint,
        "is_replayed": scene.is_replayed,
        "limit": options.peer_objects if contender in PEERS else scene.num_objects,
        "name": name,
        "prefix": "",
        "schema": SCHEMA,
        "split_at": scene.split_at if partitions == "4" else (),
        "table": TABLE,
        "url": scene.url,
    }
    python = options.peers if contender in PEERS else sys.executable
    done = subprocess.run(
        [python, Path(__file__).with_name("orphans_contender.py"), json.dumps(question)],
        capture_output=True,
        check=False,
        env={**os.environ, **CREDENTIALS},
        text=True,
    )
    if done.returncode:
        sys.exit(f"error: {contender} on {scene.name} must succeed, got {done.stderr[-2_000:]}")
    return Lap(**json.loads(done.stdout))


def report(results: Sequence[Results], server: str, options: argparse.Namespace) -> str:
    return "\n\n".join(["\n".join(about_run(server, options)), *(section(one) for one in results)])


def section(results: Results) -> str:
    """Return one table, ratios first."""
    scene = results.scene
    first = next(iter(results.laps))
    rows = [
        [
            TITLES[name],
            spread(
                [
                    mine.per_second / base.per_second
                    for mine, base in zip(laps, results.laps[first], strict=True)
                ],
                "{:.2f}",
            ),
            spread(
                [base.cpu_us / mine.cpu_us for mine, base in zip(laps, results.laps[first], strict=True)],
                "{:.1f}",
            ),
            spread([lap.per_second for lap in laps], "{:,.0f}"),
            spread([lap.cpu_us for lap in laps], "{:.1f}"),
            f"{max(lap.peak_mib for lap in laps):.0f}",
        ]
        for name, laps in results.laps.items()
    ]
    heads = [
        f"{scene.title}; {scene.num_objects:,} objects",
        "speed, times the first",
        "objects per CPU, times the first",
        "objects/s",
        "CPU, µs an object",
        "peak, MiB",
    ]
    parts = [heads, ["---", *["--:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(part)} |" for part in parts)


def spread(values: Sequence[float], written: str) -> str:
    """Return the median and the range."""
    middle, least, most = (
        written.format(one) for one in (statistics.median(values), min(values), max(values))
    )
    return middle if len(values) == 1 else f"{middle} ({least} to {most})"


def about_run(server: str, options: argparse.Namespace) -> list[str]:
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    peers = (
        "boto3, minio-py and the loop"
        if options.peers is not None
        else "no peers, because --peers was not given"
    )
    return [
        f"- Machine: {os.cpu_count()} cores, {platform.system()}; client, server and PostgreSQL share it.",
        f"- Load averages when the run ended: {load}; load above 2 came from other work too.",
        f"- PostgreSQL {server}, Python {platform.python_version()}, botocore {version('botocore')}; {peers}.",
        f"- {options.rounds} rounds in turn after one that does not count.",
        f"- Peers stop after {options.peer_objects:,} objects. Imports and creation of clients do not count.",
        "- Figures are the median, with least and greatest in brackets.",
    ]


def log(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    places = ("replay", "rgw", "seaweed", "directory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--objects", type=int, default=200_000, help="objects of the replay server")
    parser.add_argument("--peer-objects", type=int, default=50_000, help="objects after which the peers stop")
    parser.add_argument("--server-objects", type=int, default=10_000, help="objects of a real server")
    parser.add_argument("--files", type=int, default=100_000, help="files of the directory")
    parser.add_argument("--only", choices=places, nargs="+", default=places, help="measure only these")
    parser.add_argument("--peers", help="a Python that has boto3, minio and asyncpg")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks of FILE")
    return parser.parse_args()


def main() -> None:
    options = parsed_options()
    os.environ.update(CREDENTIALS)
    with tempfile.TemporaryDirectory(prefix="millhand-bench-") as directory:
        Path(directory).chmod(0o755)  # a server that root starts runs as another user
        with embedded_postgres(Path(directory)) as server:
            results = []
            for place in scenes(options):
                with place as scene:
                    results.append(measure(scene, server.url, options))
            text = report(results, asyncio.run(server_version(server.url)), options)
    if options.write is not None:
        put(options.write, text, BEGIN_MARK, END_MARK)
    print(text)


async def server_version(url: str) -> str:
    driver = AsyncpgDriver(url)
    await driver.open()
    rows = await driver.pool.fetch("SELECT current_setting('server_version') AS version")
    await driver.close()
    return str(rows[0]["version"]).split()[0]


if __name__ == "__main__":
    main()
